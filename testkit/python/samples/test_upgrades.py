"""What a team writes: two apps that lose no request, and what psflip refuses."""

import sys

AIOHTTP = [sys.executable, "aiohttp_app.py"]
GUNICORN = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:{{ local('port') }}", "wsgi_app"]


def test_gunicorn_loses_no_request(psflip):
    service = psflip(GUNICORN, health="/")
    with service.load(kinds=["new", "keep-alive", "post-half"]) as load:
        for _ in range(2):
            service.flip()
    assert load.requests > 100


def test_aiohttp_loses_no_request(psflip):
    service = psflip(AIOHTTP)
    with service.load(max_p99=5):
        flips = [service.flip() for _ in range(2)]
    assert [flip.generation for flip in flips] == [2, 3]
    assert all(0 < flip.duration < 30 for flip in flips)


def test_a_bad_version_is_refused_and_costs_nothing(psflip):
    service = psflip(AIOHTTP, health="/")
    with service.load(clients=4):
        service.set_cmd([sys.executable, "-c", "raise SystemExit('a bug')"])
        assert "exit" in service.flip_fails().reason
        service.set_config("this is no TOML")
        assert service.flip_fails().generation == 1
        service.set_cmd(AIOHTTP)
        assert service.flip().generation == 2
