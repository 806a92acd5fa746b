#!/bin/sh
# One command in place of `start_server --path app.sock --pid-file app.pid --kill-old-delay 1 -- http-server ...`, without a
# configuration file. The server finds the socket in SERVER_STARTER_PORT, as before. In addition, psflip waits until the new
# server reports that it is ready.
#
#   kill -HUP "$(cat app.pid)"    # upgrade: starts a new server with the same command
#   curl --unix-socket app.sock http://localhost/
exec psflip run --listen unix://app.sock,as=server_starter --pidfile app.pid --healthcheck-notify --shutdown-delay 100ms \
    -- http-server --inherit server_starter
