"""Two machines in one: network namespaces joined by a cable (a veth pair), for tests of what crosses a network.

A thread is in one namespace, and whoever it starts begins there; a socket stays where it was made.
"""

from __future__ import annotations

import contextlib
import ctypes
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

NETWORK = 0x40000000
"""CLONE_NEWNET of `setns`."""


class Machine:
    """One end of the cable: a namespace with a loopback interface of its own and one address."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is on that machine."""
        with Path("/proc/thread-self/ns/net").open() as before, Path(f"/run/netns/{self.name}").open() as namespace:
            _enter(namespace.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())


class Cable:
    """Joins two machines, `near` and `far`."""

    def __init__(self) -> None:
        mark = secrets.token_hex(3)
        self.near, self.far = Machine(f"rba-{mark}-near", "10.213.7.1"), Machine(f"rba-{mark}-far", "10.213.7.2")

    def lay(self) -> None:
        """Make both machines. Skips the test where that is not allowed."""
        if shutil.which("ip") is None:
            pytest.skip("no `ip` here to make network namespaces with")
        for machine in (self.near, self.far):
            made = subprocess.run(["ip", "netns", "add", machine.name], capture_output=True, text=True, check=False)
            if made.returncode:
                pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
        _ip("-n", self.near.name, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", self.far.name)
        for machine in (self.near, self.far):
            _ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", "cable")
            for interface in ("lo", "cable"):
                _ip("-n", machine.name, "link", "set", interface, "up")

    def cut(self) -> None:
        """Nothing passes, and nobody is told."""
        _ip("-n", self.far.name, "link", "set", "cable", "down")

    def mend(self) -> None:
        """As before."""
        _ip("-n", self.far.name, "link", "set", "cable", "up")

    def take_up(self) -> None:
        """Both machines are gone."""
        for machine in (self.near, self.far):
            subprocess.run(["ip", "netns", "delete", machine.name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, NETWORK):
        raise OSError(ctypes.get_errno(), "setns")
