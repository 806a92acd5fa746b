# A PSGI application for starlet.toml: reports which process answers and what it received.
use strict;
use warnings;
use IO::Socket::UNIX;
use Socket qw(SOCK_DGRAM);

my $name = 'gen' . ($ENV{PSFLIP_GENERATION} // 0);

# Each worker sends READY=1 to psflip (sd_notify(3)) when it is about to accept; the first one counts. Starlet has no hook for
# that moment. When this file is loaded, no worker runs yet: the old version would stop even if every new worker crashed.
if (my $path = delete $ENV{NOTIFY_SOCKET}) {
    $path =~ s/^@/\0/;
    require Starlet::Server;
    my $accept_loop = \&Starlet::Server::accept_loop;
    no warnings 'redefine';
    *Starlet::Server::accept_loop = sub {
        my $socket = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => $path) or die "$path: $!\n";
        $socket->send('READY=1');
        goto &$accept_loop;
    };
}

sub {
    my ($env) = @_;
    my $length = 0;
    my $input  = $env->{'psgi.input'};
    while (my $got = $input->read(my $part, 65536)) { $length += $got }
    my ($echo) = $env->{QUERY_STRING} =~ /^echo=(.*)/;
    my $text = sprintf "name=%s pid=%d body=%d echo=%s\n", $name, $$, $length, $echo // '';
    return [200, ['Content-Type' => 'text/plain', 'Content-Length' => length $text], [$text]];
};
