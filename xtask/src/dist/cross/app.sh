#!/bin/busybox sh
# The service: it serves the page as it was when this generation started.
set -e
mkdir "/tmp/$$"
cp /srv/index.html "/tmp/$$/"
exec httpd -f -p "127.0.0.1:$PORT" -h "/tmp/$$"
