#!/bin/sh
# One command in place of `spawn-fcgi -n -s app.sock -M 0660 -P app.pid -- fcgi-server ...`, without a configuration file. The
# application accepts on descriptor 0, as before. For `-u` and `-g`, put setpriv(1) before the application's name.
#
#   kill -HUP "$(cat app.pid)"    # upgrade: no request is lost
exec psflip run --listen unix://app.sock,as=stdin,mode=0660 --pidfile app.pid --healthcheck-notify \
    -- fcgi-server --inherit stdin
