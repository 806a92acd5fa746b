"""Requests without pause, by psflip-rehearse, and what became of them."""

import json
import os
from collections import Counter
from select import select

from .program import Guarded, ServiceError, last_lines, program

AFTERMATH = 0.05
"""A request that is lost so many seconds after an upgrade may still have been harmed by it."""
START = 30
"""Seconds until every client must have been answered well."""
CONNECTION = {"own": "its own connection", "first": "a fresh keep-alive connection", "reused": "a reused keep-alive connection"}
STAGE = {
    "connect": "connecting",
    "send": "sending the request",
    "first-byte": "waiting for the answer",
    "head": "reading the head of the answer",
    "body": "reading the body of the answer",
    "protocol": "understanding the answer",
    "status": "the answer itself",
}


class Load:
    """Clients that send requests without pause while the block of `with` runs. At its end the test fails if more were
    lost than is allowed; the message explains each loss. The first upgrade finds every client served already.

    clients: how many at a time.
    kinds: new, keep-alive, post, post-half, stream, websocket.
    rate: requests a second of all together, instead of as many as the service answers.
    max_lost: how many requests may be lost.
    max_keep_alive_lost: how many on reused keep-alive connections on top of these: clients may repeat them.
    max_p99: the longest time that 99 % of the requests may take, in seconds.
    """

    def __init__(
        self,
        service,
        folder,
        url,
        *,
        clients=8,
        kinds=("new", "keep-alive"),
        rate=None,
        max_lost=0,
        max_keep_alive_lost=0,
        max_p99=None,
    ):
        self.service, self.folder, self.url = service, folder, url
        self.report = None
        """The report of psflip-rehearse (report.json), once the block has ended."""
        self._max_lost, self._max_keep_alive_lost, self._max_p99 = max_lost, max_keep_alive_lost, max_p99
        self._args = ["--load", url, "--clients", str(clients), "--kinds", ",".join(kinds)]
        self._args += [] if rate is None else ["--rate", str(rate)]
        self._guarded = None

    @property
    def requests(self):
        """How many requests were sent, once the block has ended."""
        return self.report["requests"]

    @property
    def lost(self):
        """How many of them were lost."""
        return self.report["lost"]

    def __enter__(self):
        __tracebackhide__ = True
        self.folder.mkdir()
        self._first_flip = len(self.service.flips)
        finish, self._finish = os.pipe()
        begun, begin = os.pipe()
        # To psflip-rehearse, the block is one upgrade: a command that runs until the block ends.
        during = f"echo >/proc/self/fd/{begin}; exec cat /proc/self/fd/{finish}"
        command = [program("psflip-rehearse"), "--no-sandbox", "--during", during, "--flips", "1"]
        command += ["--pause", "100ms", "--start-timeout", f"{START}s", "--out", str(self.folder), *self._args]
        try:
            self._guarded = Guarded(command, self.folder / "load.log", pass_fds=(begin, finish))
        finally:
            os.close(finish)
            os.close(begin)
        readable, _, _ = select([begun], [], [], START + 10)
        is_begun = readable and os.read(begun, 1)
        os.close(begun)
        if not is_begun:
            self.stop()
            raise ServiceError(f"no load is possible. {last_lines(self.folder / 'load.log')}\n{self.service.log()}")
        return self

    def __exit__(self, kind, error, traceback):
        __tracebackhide__ = True
        if kind is not None:
            self.stop()  # the block's own failure says more
            return
        os.close(self._finish)
        self._finish = None
        self._guarded.wait(60)
        self.stop()
        path = self.folder / "report.json"
        if not path.exists():
            raise ServiceError(f"the load has no report. {last_lines(self.folder / 'load.log')}")
        self.report = json.loads(path.read_text())
        failures = self._failures()
        if failures:
            raise AssertionError("\n".join(["; ".join(failures), *self._explanation()]))

    def stop(self):
        """Ends the load at once, without a report."""
        if self._guarded is not None:
            self._guarded.stop()
            self._guarded = None
            if self._finish is not None:
                os.close(self._finish)
                self._finish = None

    def _failures(self):
        report, failures = self.report, []
        forgiven = min(report["keep_alive_lost"], self._max_keep_alive_lost)
        if report["lost"] - forgiven > self._max_lost:
            flips = len(self._flips())
            failures.append(f"{report['lost']} of {report['requests']} requests were lost over {flips} upgrades")
        p99 = max((load["latency"]["p99_ms"] or 0 for load in report["loads"]), default=0) / 1e3
        if self._max_p99 is not None and p99 > self._max_p99:
            failures.append(f"99 % of the requests took up to {p99:.3f} s (max_p99 = {self._max_p99})")
        return failures

    def _flips(self):
        return self.service.flips[self._first_flip :]

    def _explanation(self):
        """As the summary of `psflip rehearse`, with the upgrades of the test."""
        report = self.report
        for load in report["loads"]:
            times = load["latency"]
            latency = " ".join(f"{name} {_ms(times[name + '_ms'])}" for name in ("p50", "p99", "max"))
            head = f"  {load['kind']:<10} {load['url']} {load['clients']} clients"
            yield f"{head} {load['requests']} requests {load['lost']} lost   {latency}"
        lost_in = Counter(self._flip_at(lost)[0] for lost in report["losses"])
        for flip in self._flips():
            at = {name: time - flip.began_at for name, time in flip.steps}
            result = f"failed after {at['failed']:.3f} s" if flip.reason else f"active after {at['promoted']:.3f} s"
            gone = f", old version gone after {at['gone']:.3f} s" if "gone" in at else ""
            yield f"  flip {flip.number}: {result}{gone}; {lost_in[flip.number]} lost"
        for finding in report["findings"]:
            remedy = finding["remedy"].replace("--max-keep-alive-lost", "max_keep_alive_lost=N")
            yield f"  {finding['count']} lost: {finding['why']}"
            yield f"      do: {remedy} ({finding['page']})"
        seen = Counter(map(self._what, report["losses"]))
        for what, count in seen.most_common(8):
            yield f"      {count:>6} x {what}"
        if len(seen) > 8:
            yield f"             and {len(seen) - 8} others"
        yield f"  {self.folder / 'report.html'} shows every request; {self.service.log_path} is the service's log"

    def _what(self, lost):
        number, step = self._flip_at(lost)
        when = "between flips" if number is None else f"in flip {number}, after `{step}`"
        where = f"{STAGE[lost['stage']]} on {CONNECTION[lost['connection']]}"
        return f"{lost['kind']}: {lost['cause']} ({where}, {when})"

    def _flip_at(self, lost):
        """The number of the upgrade in which this was lost, and its last step before. psflip's times are whole
        milliseconds, of the same clock."""
        at = (self.report["began_at"] + lost["at_ms"]) / 1e3 + 0.001
        for flip in self._flips():
            if flip.began_at <= at <= flip.steps[-1][1] + AFTERMATH:
                return flip.number, [name for name, time in flip.steps if time <= at][-1]
        return None, None


def _ms(value):
    return "-" if value is None else f"{value:.1f} ms"
