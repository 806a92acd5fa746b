"""gunicorn's own settings for gunicorn.toml: psflip gets READY=1 when every worker can serve."""

import mmap
import os
import socket

workers = 2
# The application is imported once, before the workers are forked.
preload_app = True

# gunicorn itself sends READY=1 before it starts the first worker: the old version would stop even if every worker
# of the new one crashed. Without this variable gunicorn sends nothing.
NOTIFY_SOCKET = os.environ.pop("NOTIFY_SOCKET", None)
# One byte for each worker, in memory that all workers share.
READY = mmap.mmap(-1, workers)


def post_worker_init(worker):
    """Runs in a worker that has loaded the application and is about to accept requests."""
    READY[(worker.age - 1) % workers] = 1
    if NOTIFY_SOCKET and 0 not in READY[:]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            notifier.sendto(b"READY=1", NOTIFY_SOCKET.replace("@", "\0", 1))
