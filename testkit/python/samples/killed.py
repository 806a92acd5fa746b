"""A test process that is killed, with a service and a load: nothing of them may be left."""

import os
import signal
import sys


def test_that_is_killed(psflip):
    service = psflip([sys.executable, "aiohttp_app.py"])
    with service.load(clients=2):
        os.kill(os.getpid(), signal.SIGKILL)
