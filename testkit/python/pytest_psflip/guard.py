"""Runs a program below itself, so that nothing of it is left, also if the test process is killed.

    guard.py STOP... -- PROGRAM ARGUMENT...

When standard input ends, the command STOP (if any) asks the program to stop, and what is left then is killed. Every
process below becomes a child of this one if its parent exits (PR_SET_CHILD_SUBREAPER), so none can escape. When
the program reports READY=1 (sd_notify(3)), `ready` is written to standard output; it ends when the program has exited.
It imports little, since every service and every load waits for it.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from select import select

PR_SET_CHILD_SUBREAPER = 36
STOP_LIMIT = 60
"""Seconds that a stop may take: longer than the default of `shutdown.timeout`."""


def main(args):
    separator = args.index("--")
    stop, command = args[:separator], args[separator + 1 :]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(f"\0pytest-psflip-{os.getpid()}")
    report, sys.stdout = os.dup(1), sys.stderr
    os.dup2(2, 1)  # the program's output goes to standard error, which is a file
    environment = {**os.environ, "NOTIFY_SOCKET": notify.getsockname().decode().replace("\0", "@")}
    # In the program, standard input is not the pipe that tells this process to stop.
    subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, close_fds=False)
    while True:
        readable, _, _ = select([0, wake, notify], [], [])
        if notify in readable and b"READY=1" in notify.recv(65536).split(b"\n"):
            os.write(report, b"ready\n")
        if wake in readable:
            os.read(wake, 4096)
            if not reap():
                return
        if 0 in readable and not os.read(0, 4096):
            break
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if stop:
        # If it fails, psflip is gone already, or is killed below.
        try:
            subprocess.run(stop, stdin=subprocess.DEVNULL, timeout=STOP_LIMIT, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"stop: {error}", file=sys.stderr)
    kill_all()


def reap():
    """Whether there are children; those that have exited are reaped."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        return False
    return True


def kill_all():
    """Kills children until there is none: what they leave becomes a child in turn."""
    while reap():
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as children:
            for pid in children.read().split():
                os.kill(int(pid), signal.SIGKILL)  # a child, so this pid can't belong to another process
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


if __name__ == "__main__":
    main(sys.argv[1:])
