"""A counter in SQLite that only one process may open."""

import os
import signal
import socketserver
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler

GENERATION = os.environ.get("PSFLIP_GENERATION", "0")


def database():
    db = sqlite3.connect("app.db", isolation_level=None, check_same_thread=False, timeout=0)
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("CREATE TABLE IF NOT EXISTS hits (generation TEXT)")
    db.execute("BEGIN EXCLUSIVE")  # takes the lock, which this process keeps
    db.execute("COMMIT")
    return db


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # each answer in one piece: a health check closes when it has read the status

    def answer(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        with self.server.lock:
            (count,) = self.server.db.execute("SELECT count(*) FROM hits").fetchone()
        self.answer(f"name={GENERATION} count={count}\n")

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.db.execute("INSERT INTO hits VALUES (?)", (GENERATION,))
            (count,) = self.server.db.execute("SELECT count(*) FROM hits").fetchone()
        self.answer(f"name={GENERATION} count={count}\n")

    def address_string(self):
        return "client"

    def log_message(self, format, *args):
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    request_queue_size = 128


def main():
    if "--check" in sys.argv:
        # The old process has the lock; a read-only look at the file needs none.
        sqlite3.connect("file:app.db?mode=ro&immutable=1", uri=True).execute("PRAGMA schema_version")
        return
    db = database()
    if os.path.exists("app.sock"):
        os.unlink("app.sock")
    server = Server("app.sock", Handler)
    server.db, server.lock = db, threading.Lock()
    stop = lambda *_: threading.Thread(target=server.shutdown).start()
    signal.signal(signal.SIGTERM, stop)
    server.serve_forever()
    server.server_close()  # waits for the requests that are under way
    db.close()


main()
