#!/usr/bin/env perl
# A Server::Starter application for server-starter.toml: an HTTP server that uses Perl's core modules only. It finds its sockets
# in SERVER_STARTER_PORT and forks workers that accept. On SIGTERM it exits when they have answered.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use POSIX qw(:signal_h WNOHANG);
use Socket qw(SOCK_DGRAM);

my $name    = 'gen' . ($ENV{PSFLIP_GENERATION} // 0);
my $workers = 4;

# `HOST:PORT=FD;...`
my ($fd) = ($ENV{SERVER_STARTER_PORT} // '') =~ /=(\d+)/ or die "SERVER_STARTER_PORT has no socket in it\n";
my $listener = IO::Socket::INET->new_from_fd($fd, '+<') or die "descriptor $fd: $!\n";
# Several workers (of two generations during an upgrade) wake up for the same client, and one of them accepts it; the others
# must not block in accept.
$listener->blocking(0);

# The workers exit when this pipe is closed: a signal that arrives just before a wait would not interrupt the wait.
pipe my $end, my $hold or die "pipe: $!\n";
my $waited_for = POSIX::SigSet->new(SIGTERM, SIGCHLD);
sigprocmask(SIG_BLOCK, $waited_for);

my %worker;
for (1 .. $workers) {
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        close $hold;
        $SIG{PIPE} = $SIG{TERM} = 'IGNORE';
        sigprocmask(SIG_UNBLOCK, $waited_for);
        notify('READY=1');    # a worker serves; the first message counts
        serve();
        exit 0;
    }
    $worker{$pid} = 1;
}
my $ending = 0;
$SIG{CHLD} = sub { };
$SIG{TERM} = sub { $ending = 1; close $hold };
while (%worker) {
    sigsuspend(POSIX::SigSet->new);
    while ((my $pid = waitpid -1, WNOHANG) > 0) {
        delete $worker{$pid};
        die "a worker has ended by itself: $?\n" if !$ending;
    }
}

sub serve {
    my $ready = IO::Select->new($listener, $end);
    while (!grep { $_ == $end } $ready->can_read) {
        my $client = $listener->accept or next;    # another worker has accepted it
        $client->blocking(1);
        # One request per connection, so no client reuses a connection that is about to be closed.
        answer($client);
        close $client;
    }
    return;
}

sub answer {
    my ($client) = @_;
    my $buffer = '';
    until ($buffer =~ /\r\n\r\n/) { more($client, \$buffer) or return }
    my ($head, $body) = split /\r\n\r\n/, $buffer, 2;
    my $length = $head =~ /^Content-Length:\s*(\d+)/im ? $1 : 0;
    while (length $body < $length) { more($client, \$body) or return }
    my ($echo) = $head =~ m{^\S+ \S*[?&]echo=([^& ]*)};
    my $text = sprintf "name=%s pid=%d body=%d echo=%s\n", $name, $$, length $body, $echo // '';
    my $left = sprintf "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", length $text, $text;
    while (length $left) {
        my $written = syswrite $client, $left;
        if (defined $written) { substr $left, 0, $written, '' }
        elsif (!$!{EINTR}) { return }
    }
    return;
}

sub more {
    my ($client, $buffer) = @_;
    while (1) {
        my $got = sysread $client, $$buffer, 65536, length $$buffer;
        return $got if defined $got || !$!{EINTR};
    }
}

# sd_notify(3), for psflip's health check `notify`.
sub notify {
    my ($text) = @_;
    my $path = $ENV{NOTIFY_SOCKET} // return;
    $path =~ s/^@/\0/;
    my $socket = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => $path) or die "$path: $!\n";
    $socket->send($text);
    return;
}
