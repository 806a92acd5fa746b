"""An ASGI application for uvicorn.toml and uvicorn-shared.toml: says who answers and what it got, and tells psflip when it has
started (uvicorn-shared.toml)."""

import os
import socket

NAME = "gen" + os.environ.get("PSFLIP_GENERATION", "0")


def notify(text):
    """sd_notify(3), for psflip's health check `notify`."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            notifier.sendto(text.encode(), address.replace("@", "\0", 1))


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    echo = scope["query_string"].decode().removeprefix("echo=")
    answer = f"name={NAME} pid={os.getpid()} body={length} echo={echo}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def lifespan(receive, send):
    await receive()  # lifespan.startup: here connect to the database, and so on
    notify("READY=1")
    await send({"type": "lifespan.startup.complete"})
    await receive()  # lifespan.shutdown: every request has been answered
    await send({"type": "lifespan.shutdown.complete"})
