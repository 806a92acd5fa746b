"""Python's http.server, as `python3 -m http.server` runs it, with POST."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = "gen" + os.environ["PSFLIP_GENERATION"]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        echo = self.path.partition("?echo=")[2]
        answer = f"name={NAME} pid={os.getpid()} body={len(body)} echo={echo}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
