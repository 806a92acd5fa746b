"""Tests that must fail: this app closes idle connections as it stops; the other one does not start."""

import sys


def test_aiohttp_on_a_shared_socket(psflip):
    service = psflip([sys.executable, "aiohttp_app.py"], proxy=False)
    with service.load(kinds=["keep-alive"]):
        for _ in range(2):
            service.flip()


def test_a_failed_upgrade(psflip):
    service = psflip([sys.executable, "aiohttp_app.py"])
    service.set_cmd([sys.executable, "-c", "raise SystemExit('a bug')"])
    service.flip()


def test_a_service_that_does_not_start(psflip):
    psflip([sys.executable, "-c", "raise SystemExit('a bug')"])
