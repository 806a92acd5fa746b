"""The programs of the wheel, below a guard that leaves nothing of them."""

import os
import subprocess
import sys
from pathlib import Path
from select import select


class ServiceError(AssertionError):
    """A service did not start, or does not answer."""


def program(name):
    """The path of one of psflip's programs: `psflip`, `psflip-rehearse`, `psflip-fixture`."""
    return str(Path(__file__).with_name("bin") / name)


class Guarded:
    """A program below guard.py."""

    def __init__(self, command, log, stop=(), pass_fds=(), env=None, cwd=None):
        guard = [sys.executable, "-I", str(Path(__file__).with_name("guard.py")), *stop, "--", *command]
        # Not in the terminal's process group: Ctrl-C is for pytest, which then stops the service.
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                guard,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                pass_fds=pass_fds,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )

    def wait_ready(self, limit):
        """Whether it has reported READY=1. `False`: it has exited; `None`: neither, within this many seconds."""
        readable, _, _ = select([self._process.stdout], [], [], limit)
        return None if not readable else os.read(self._process.stdout.fileno(), 16) != b""

    def wait(self, limit):
        """Waits until the program has exited."""
        self._process.wait(limit)

    def stop(self):
        """Stops it. Nothing of it is left then."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def last_lines(path, count=25):
    """The end of a file, for a message."""
    lines = Path(path).read_text(errors="replace").splitlines()[-count:]
    return f"The last lines of {path}:\n" + "\n".join(f"  {line}" for line in lines)
