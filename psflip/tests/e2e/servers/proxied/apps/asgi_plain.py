"""An ASGI application without a startup or shutdown of its own."""

import os

NAME = "gen" + os.environ["PSFLIP_GENERATION"]


async def application(scope, receive, send):
    assert scope["type"] == "http"
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
