"""Prometheus' programs, as Debian packages them: those that are installed, or else fetched once.

``python -m tests.debian`` fetches them ahead of the tests.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PACKAGE, PROGRAMS = "prometheus", ("prometheus", "promtool")
LIMIT_S = 300.0


def cache() -> Path:
    """Where the package is unpacked."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rba-tests" / PACKAGE


def find(program: str) -> str | None:
    """Its path, if it is installed or was fetched."""
    return shutil.which(program) or shutil.which(program, path=str(cache() / "usr" / "bin"))


def fetch() -> None:
    """Unpack the package into the cache; nothing is installed, and no service starts. Raises `OSError`, `subprocess.SubprocessError`."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            _run("apt-get", "download", PACKAGE, folder=folder)
        except subprocess.CalledProcessError:
            _run("apt-get", "update")  # no lists, or old ones; takes root
            _run("apt-get", "download", PACKAGE, folder=folder)
        (archive,) = Path(folder).glob("*.deb")
        unpacked = Path(folder) / "unpacked"
        _run("dpkg", "-x", str(archive), str(unpacked))
        shutil.rmtree(cache(), ignore_errors=True)
        cache().parent.mkdir(parents=True, exist_ok=True)
        shutil.move(unpacked, cache())


def _run(*command: str, folder: str | None = None) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=LIMIT_S)


@functools.cache
def program(name: str) -> str:
    """Path of one of `PROGRAMS`. Where there is no way to get it the test is skipped, but fails if the environment says ``CI=true``."""
    if find(name) is None:
        try:
            fetch()
        except (OSError, subprocess.SubprocessError) as error:
            _missing(f"{name} is not installed and could not be fetched ({error}); install Debian's package {PACKAGE}")
    found = find(name)
    return found if found is not None else _missing(f"Debian's package {PACKAGE} holds no {name}")


def _missing(why: str) -> str:
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(why)
    pytest.skip(why)


def main() -> int:
    """Fetch what is missing; 0 also when it cannot be, for the tests then say so."""
    if all(find(name) for name in PROGRAMS):
        return 0
    try:
        fetch()
    except (OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"Prometheus could not be fetched, its tests will be skipped: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
