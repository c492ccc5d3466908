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
    """Where the package is unpacked by who is not root."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rba-tests" / PACKAGE


def find(program: str) -> str | None:
    """Its path, if it is installed or was fetched."""
    return shutil.which(program) or shutil.which(program, path=str(cache() / "usr" / "bin"))


def fetch() -> None:
    """Install the package as root, or unpack it into the cache. Raises `OSError` and `subprocess.SubprocessError`."""
    if os.geteuid() == 0 and _install():
        return
    with tempfile.TemporaryDirectory() as folder:
        _run("apt-get", "download", PACKAGE, folder=folder)
        (archive,) = Path(folder).glob("*.deb")
        unpacked = Path(folder) / "unpacked"
        _run("dpkg", "-x", str(archive), str(unpacked))
        cache().parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(cache(), ignore_errors=True)
        shutil.move(unpacked, cache())


def _install() -> bool:
    """False where the system may not be changed. Prometheus is not started: its service would take a port."""
    without_service = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    options = ("-o", f"DPkg::Lock::Timeout={LIMIT_S:.0f}", "install", "--yes", "--no-install-recommends", PACKAGE)
    for update in (False, True):
        try:
            if update:
                _run("apt-get", "update")
            _run("apt-get", *options, env=without_service)
        except (OSError, subprocess.SubprocessError):
            continue
        return True
    return False


def _run(*command: str, folder: str | None = None, env: dict[str, str] | None = None) -> None:
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, timeout=LIMIT_S)


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
