"""aiohttp, as its tutorial starts it."""

import os

from aiohttp import web

NAME = "gen" + os.environ["PSFLIP_GENERATION"]


async def handle(request):
    body = await request.read()
    echo = request.query.get("echo", "")
    return web.Response(text=f"name={NAME} pid={os.getpid()} body={len(body)} echo={echo}\n")


app = web.Application()
app.router.add_route("*", "/", handle)
web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=None)
