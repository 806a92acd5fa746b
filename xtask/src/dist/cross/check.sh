#!/bin/busybox sh
# Upgrades a service by the programs of the release. It is run by `sh -eux`; its arguments are the
# exit code of the process that it starts, and options of `psflip run`.
expected=$1
shift
socket=/run/app.pid.sock
served() { wget -q -O - http://127.0.0.1:8080/; }

psflip --version
psflip-rehearse --version

echo 'version 1' >/srv/index.html
psflip run "$@" --proxy http://127.0.0.1:8080 --healthcheck-http / --pidfile /run/app.pid -- /bin/app &
service=$!
set +x
until psflip status --socket $socket --check >/dev/null 2>&1; do :; done
set -x
test "$(served)" = 'version 1'
old=$(cat /run/app.pid)

# Once it has drained, nothing of the old generation is left.
echo 'version 2' >/srv/index.html
psflip upgrade --socket $socket --wait drained
test "$(served)" = 'version 2'
new=$(cat /run/app.pid)
test "$new" != "$old"
test ! -e "/proc/$old"
test "$(pidof httpd | wc -w)" = 1
psflip status --socket $socket --json | grep -q '"generation":2'

# A version that can't start changes nothing.
rm /srv/index.html
if psflip upgrade --socket $socket; then exit 1; fi
test "$(served)" = 'version 2'
test "$(cat /run/app.pid)" = "$new"
psflip status --socket $socket

psflip stop --socket $socket
code=0
wait $service || code=$?
test $code = "$expected"
test ! -e /run/app.pid
if pidof psflip httpd; then exit 1; fi
