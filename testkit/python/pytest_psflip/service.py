"""A service under psflip: start, upgrades, load, stop."""

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass

from .load import Load
from .program import Guarded, ServiceError, last_lines, program

PROXY = """
[[proxy]]
listen = "tcp://127.0.0.1:0"
forward = "127.0.0.1:{{ local('port') }}"
protocol = "http"
[locals]
port = "{{ free_port('20000-29999') }}"
[env]
PORT = "{{ local('port') }}"
"""
LISTEN = """
[[listen]]
address = "tcp://127.0.0.1:0"
"""


@dataclass(frozen=True)
class Flip:
    """An upgrade. Times are in seconds."""

    number: int
    generation: int
    """The new generation, or the one that stayed if the upgrade failed."""
    began_at: float
    """Since 1970 (UTC)."""
    duration: float
    """From the request until the new version had the traffic, or the upgrade had failed."""
    steps: tuple
    """`(name, time since 1970)`, in their order: those of docs/control.md."""
    reason: str = ""
    """Why it failed."""


class Service:
    """A service.

    cmd: the command, a list; `{{ local('port') }}` is a free port of each generation, which is also in PORT.
    proxy: psflip accepts connections and forwards them to this port. Otherwise the child inherits one socket that all
        versions share (descriptor 3, LISTEN_FDS).
    health: a path that is requested, such as "/up"; "notify" (READY=1 by sd_notify(3)); or None: the port accepts a
        connection. Without proxy the default is "notify".
    more: further lines of the configuration, such as '[shutdown]\\ntimeout = "30s"'.
    config: a whole configuration as text, instead of all of these. A pidfile is added if there is none. Its relative
        paths are in `service.folder`.
    workdir: where the command runs [default: the working directory].
    env: variables of the service, beside those of the test.
    timeout: how long start and upgrades may take, in seconds.
    """

    def __init__(
        self, folder, cmd=None, *, proxy=True, health=None, more="", config=None, workdir=None, env=None, timeout=60
    ):
        if (cmd is None) == (config is None):
            raise TypeError("a service has either a command or `config`")
        self.folder = folder
        self.log_path = folder / "service.log"
        self.timeout = timeout
        self.flips = []
        self._guarded = None
        self._loads = []
        self._proxy, self._health, self._more, self._env = proxy, health, more, env or {}
        self._workdir = workdir or os.getcwd()
        if config is None:
            self.set_cmd(cmd)
        else:
            self.set_config(config)

    def set_cmd(self, cmd):
        """The next version has this command."""
        lines = [f"cmd = {json.dumps([str(argument) for argument in cmd])}", f"workdir = {json.dumps(str(self._workdir))}"]
        self.set_config("\n".join([*lines, PROXY if self._proxy else LISTEN, self._check(), self._more]))

    def _check(self):
        if self._health == "notify" or (self._health is None and not self._proxy):
            return "[healthcheck.notify]\n"
        if not self._proxy:
            # The address is that of all versions: the old one would answer for the new one.
            raise TypeError("without a proxy, `health` is \"notify\"; `config` can have any other check")
        if self._health is None:
            return "[healthcheck.tcp]\naddress = \"127.0.0.1:{{ local('port') }}\"\n"
        return f"[healthcheck.http]\nurl = {json.dumps(self._health)}\n"

    def set_config(self, text):
        """The next version has this configuration."""
        if not re.search(r"^\s*pidfile\s*=", text, re.MULTILINE):
            text = f'pidfile = "psflip.pid"\n{text}'
        # Renamed over the old one, as by a deployment: psflip never reads half a file.
        new = self.folder / "psflip.toml.new"
        new.write_text(text)
        new.rename(self.folder / "psflip.toml")

    def start(self):
        """Starts psflip, and waits until the first child is healthy."""
        __tracebackhide__ = True
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PSFLIP_")}
        config = self.folder / "psflip.toml"
        # By `-c` the path of the socket could not be found once a version's configuration is broken.
        self._socket = self.folder / (self._pidfile() + ".sock")
        self._guarded = Guarded(
            [program("psflip"), "run", "--no-anchor", "-c", str(config)],
            self.log_path,
            env=environment | {name: str(value) for name, value in self._env.items()},
            cwd=self.folder,
            stop=[program("psflip"), "stop", "--socket", str(self._socket)],
        )
        is_ready = self._guarded.wait_ready(self.timeout)
        if not is_ready:
            self.stop()
            why = f"was not healthy within {self.timeout} s" if is_ready is None else "has exited"
            raise ServiceError(f"the service did not start: it {why}. {self.log()}")
        return self

    def _pidfile(self):
        text = (self.folder / "psflip.toml").read_text()
        return re.search(r"""^\s*pidfile\s*=\s*["'](.+?)["']""", text, re.MULTILINE)[1]

    def status(self):
        """psflip's status as a dict (docs/control.md)."""
        return json.loads(self._psflip("status", "--json").stdout)

    def log(self):
        """The last lines of psflip and the app, for a message."""
        return last_lines(self.log_path)

    @property
    def url(self):
        """Where clients connect: http://127.0.0.1:PORT, without a path."""
        status = self.status()
        fronts = [proxy["listen"] for proxy in status.get("proxies", [])]
        fronts += [listener["address"] for listener in status.get("listeners", [])]
        address = next((front for front in fronts if front.startswith("tcp://")), None)
        if address is None:
            raise ServiceError(f"the service has no TCP address of its own: {fronts}")
        return address.replace("tcp://", "http://")

    def flip(self):
        """Upgrades, and waits until the old version has exited. Returns a `Flip`; fails with the reason."""
        __tracebackhide__ = True
        flip = self._upgrade()
        if flip.reason:
            raise AssertionError(f"the upgrade failed: {flip.reason}\n{self.log()}")
        return flip

    def flip_fails(self):
        """Upgrades to a version that must be refused. Returns the `Flip`, with its reason."""
        __tracebackhide__ = True
        flip = self._upgrade()
        if not flip.reason:
            raise AssertionError(f"the upgrade to generation {flip.generation} had to fail, and succeeded\n{self.log()}")
        return flip

    def _upgrade(self):
        __tracebackhide__ = True
        done = self._psflip("upgrade", "--wait", "drained", "--json", "--timeout", f"{self.timeout}s")
        events = [json.loads(line) for line in done.stdout.splitlines()]
        numbers = [event["upgrade"] for event in events if "upgrade" in event]
        if done.returncode not in (0, 1, 3) or not numbers:
            raise ServiceError(f"the upgrade is not over: {done.stderr.strip()}\n{self.log()}")
        drained = time.time()
        status = self.status()
        record = next(one for one in reversed(status["history"]) if one["upgrade"] == numbers[-1])
        began, took = record["began_at"] / 1e3, record["took_ms"] / 1e3
        steps = [("requested", began)]
        for step in [*record.get("steps", []), *record.get("drain", [])]:
            name = "stop-signal" if step["step"] == "asked" else step["step"]
            steps.append((name, began + step["at_ms"] / 1e3))
        reason = record.get("reason", "") if record["result"] == "failed" else ""
        steps.append(("failed" if reason else "promoted", began + took))
        if not reason and "gone" not in dict(steps):
            steps.append(("gone", drained))  # the record may come later than the event
        steps.sort(key=lambda step: step[1])
        flip = Flip(len(self.flips) + 1, status["generation"], began, took, tuple(steps), reason)
        self.flips.append(flip)
        return flip

    def load(self, path="/", **options):
        """Requests without pause while the block runs: `with service.load(): service.flip()`. See `Load`."""
        __tracebackhide__ = True
        url = path if "://" in path else self.url + path
        load = Load(self, self.folder / f"load-{len(self._loads) + 1}", url, **options)
        self._loads.append(load)
        return load

    def stop(self):
        """Stops the service and its loads. Nothing of them is left then."""
        for load in self._loads:
            load.stop()
        if self._guarded is not None:
            self._guarded.stop()
            self._guarded = None

    def _psflip(self, request, *args):
        __tracebackhide__ = True
        command = [program("psflip"), request, "--socket", str(self._socket), *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=self.timeout + 10, check=False)
        if done.returncode == 125:
            raise ServiceError(f"psflip {request}: {done.stderr.strip() or done.stdout.strip()}\n{self.log()}")
        return done
