"""A WSGI application for gunicorn.toml: says who answers and what it got."""

import os

NAME = "gen" + os.environ.get("PSFLIP_GENERATION", "0")


def application(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    echo = environ["QUERY_STRING"].removeprefix("echo=")
    answer = f"name={NAME} pid={os.getpid()} body={len(body)} echo={echo}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]
