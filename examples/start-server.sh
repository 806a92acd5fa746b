#!/bin/sh
# No configuration file: one line in place of `start_server --path app.sock --pid-file app.pid --kill-old-delay 1 -- http-server ...`.
# The server finds the socket in SERVER_STARTER_PORT as before. New is that psflip waits until the new one says that it is ready.
#
#   kill -HUP "$(cat app.pid)"    # upgrade: the same line again, a new server
#   curl --unix-socket app.sock http://localhost/
exec psflip run --listen unix://app.sock,as=server_starter --pidfile app.pid --healthcheck-notify --shutdown-delay 100ms \
    -- http-server --inherit server_starter
