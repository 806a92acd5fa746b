# A PSGI application for starlet.toml: says who answers and what it got.
use strict;
use warnings;
use IO::Socket::UNIX;
use Socket qw(SOCK_DGRAM);

my $name = 'gen' . ($ENV{PSFLIP_GENERATION} // 0);

# Loaded: from here on the workers are forked, and clients wait in the shared queue until they are there. sd_notify(3).
if (my $path = $ENV{NOTIFY_SOCKET}) {
    $path =~ s/^@/\0/;
    my $socket = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => $path) or die "$path: $!\n";
    $socket->send('READY=1');
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
