"""Tests that an app survives its upgrades under psflip. See README.md."""

import pytest

from .load import Load
from .program import ServiceError, program
from .service import Flip, Service

__version__ = "0.1.0"
__all__ = ["Flip", "Load", "Service", "ServiceError", "program", "psflip"]


@pytest.fixture
def psflip(tmp_path):
    """Starts services: `service = psflip(["gunicorn", "--bind", "127.0.0.1:{{ local('port') }}", "app"])`.

    The arguments are those of `Service`. All services stop when the test ends, however it ends.
    """
    services = []

    def start(cmd=None, **options):
        __tracebackhide__ = True
        folder = tmp_path / f"service-{len(services) + 1}"
        folder.mkdir()
        services.append(Service(folder, cmd, **options))
        return services[-1].start()

    yield start
    for service in reversed(services):
        service.stop()
