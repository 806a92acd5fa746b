"""An aiohttp server: on the port in PORT, or on the socket that all versions share."""

import os
import socket

from aiohttp import web


async def hello(request):
    return web.Response(text="hello\n")


async def ready(app):
    if "NOTIFY_SOCKET" in os.environ:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))


app = web.Application()
app.router.add_get("/", hello)
app.on_startup.append(ready)
if "LISTEN_FDS" in os.environ:
    web.run_app(app, sock=socket.socket(fileno=3), print=None)
else:
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None)
