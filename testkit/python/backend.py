"""Builds the wheel, with psflip's programs inside, and the sdist, without them (PEP 517, without any other package).

The programs are those in the folder of the variable PSFLIP_PROGRAMS, or else in PATH. They are native, so the
wheel is for this platform only. It is not called manylinux: that would promise an old glibc.
"""

import base64
import gzip
import hashlib
import io
import os
import re
import shutil
import sysconfig
import tarfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = ["psflip", "psflip-rehearse", "psflip-fixture"]
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "pytest_psflip/__init__.py").read_text())[1]
METADATA = f"""\
Metadata-Version: 2.1
Name: pytest-psflip
Version: {VERSION}
Summary: Tests that an app survives its upgrades under psflip: no request is lost
License: MIT OR Apache-2.0
Classifier: Framework :: Pytest
Classifier: Operating System :: POSIX :: Linux
Requires-Python: >=3.9
Requires-Dist: pytest>=7
Description-Content-Type: text/markdown

"""


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Writes the wheel into the folder, and returns its name."""
    tag = "py3-none-" + re.sub(r"[-.]", "_", sysconfig.get_platform())
    info = f"pytest_psflip-{VERSION}.dist-info"
    files = {f"pytest_psflip/{path.name}": path.read_bytes() for path in sorted((HERE / "pytest_psflip").glob("*.py"))}
    files |= {f"pytest_psflip/bin/{name}": _program(name).read_bytes() for name in PROGRAMS}
    files[f"{info}/METADATA"] = (METADATA + (HERE / "README.md").read_text()).encode()
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: psflip\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    files[f"{info}/entry_points.txt"] = b"[pytest11]\npsflip = pytest_psflip\n"
    record = f"{info}/RECORD"
    files[record] = "".join([*map(_record, files.items()), f"{record},,\n"]).encode()
    name = f"pytest_psflip-{VERSION}-{tag}.whl"
    with zipfile.ZipFile(Path(wheel_directory, name), "w") as wheel:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (0o100755 if "/bin/" in path else 0o100644) << 16
            # Level 1: programs with debugging information are large, and a test should not wait for them.
            wheel.writestr(entry, content, zipfile.ZIP_DEFLATED, 1)
    return name


def build_sdist(sdist_directory, config_settings=None):
    """Writes the sdist into the folder, and returns its name. It has no programs: a wheel from it takes the installed ones."""
    top = f"pytest_psflip-{VERSION}"
    paths = [HERE / name for name in ["README.md", "backend.py", "pyproject.toml"]]
    paths += [path for folder in ["pytest_psflip", "samples"] for path in (HERE / folder).glob("*.py")]
    files = {str(path.relative_to(HERE)): path.read_bytes() for path in paths}
    files["PKG-INFO"] = (METADATA + (HERE / "README.md").read_text()).encode()
    # Without times, so that the same files make the same archive.
    with gzip.GzipFile(Path(sdist_directory, f"{top}.tar.gz"), "wb", mtime=0) as zipped:
        with tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path, content in sorted(files.items()):
                entry = tarfile.TarInfo(f"{top}/{path}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return f"{top}.tar.gz"


def _program(name):
    folder = os.environ.get("PSFLIP_PROGRAMS")
    found = shutil.which(name, path=folder)
    if found is None:
        raise FileNotFoundError(
            f"{name} is not in {folder or 'PATH'}. This package contains no programs: install psflip first, with its "
            "psflip-rehearse and psflip-fixture (Debian package, or `cargo build --release --workspace --bins` in psflip's "
            "repository), or name the folder that has them by PSFLIP_PROGRAMS"
        )
    return Path(found)


def _record(file):
    path, content = file
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    return f"{path},sha256={digest},{len(content)}\n"
