"""One writer at a time behind a URL: an object says who writes, and is renewed while that goes on. Edge: the clock, a thread.

Stores have no locks. A claim keeps out whoever comes while it is renewed. Of two that come in the same moment one is refused where the
store can create an object only if there is none, and else whoever does not find its own claim there afterwards. A writer that was cut off
for so long that another one has taken its place is told by `Claim.check`.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from protocol.destination import Destination
from protocol.errors import UserError

NAME = ".writer.json"
RENEW_S = 30.0
STALE_S = 300.0
"""A claim that was not renewed for so long is nobody's; machines' clocks may differ by less than that."""


class Holder(msgspec.Struct, frozen=True):
    """What a claim says."""

    who: str
    """For people."""
    machine: str
    """Boot and process namespace, within which `process` means something."""
    process: int
    token: str
    seen_s: float
    """When it was renewed, in seconds since 1970 by its own clock."""
    purpose: str = ""
    """What it writes: who comes after a writer that has not ended in order may clear away what another one of its kind has left."""


class Claim:
    """The right to write behind a destination, as a context manager.

    `left_behind` tells that an earlier writer for the same `purpose` has not ended in order.
    """

    def __init__(self, destination: Destination, renew_s: float = RENEW_S, stale_s: float = STALE_S, *, purpose: str = "") -> None:
        self._purpose = purpose
        self._destination, self._renew_s, self._stale_s = destination, renew_s, stale_s
        self._token = secrets.token_hex(8)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claim", daemon=True)
        self.left_behind = False

    def check(self) -> None:
        """Raises `UserError` where somebody else has taken the place of this writer."""
        holder = self._destination.patiently(self._holder)
        if holder is not None and holder.token != self._token:
            raise self._refused(holder)

    def __enter__(self) -> Self:
        """Raises `UserError` where somebody else writes there, and says who."""
        holder = self._destination.patiently(self._holder)
        if holder is not None and self._lives(holder):
            raise self._refused(holder)
        self.left_behind = holder is not None and holder.purpose == self._purpose
        if holder is not None:
            self._destination.patiently(lambda: self._destination.remove(NAME))
        self._destination.patiently(lambda: self._destination.create(self._said(), NAME))  # again: an answer may get lost
        self.check()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        with suppress(Exception):  # then it gets stale
            holder = self._holder()
            if holder is not None and holder.token == self._token:
                self._destination.remove(NAME)

    def _renew(self) -> None:
        while not self._over.wait(self._renew_s):
            with suppress(Exception):  # the next time
                holder = self._holder()
                if holder is None or holder.token == self._token:
                    self._destination.put_content(self._said(), NAME)

    def _said(self) -> bytes:
        who = f"process {os.getpid()} on {socket.gethostname()}"
        return msgspec.json.encode(Holder(who, machine(), os.getpid(), self._token, time.time(), self._purpose))

    def _holder(self) -> Holder | None:
        content = self._destination.content(NAME)
        try:
            return msgspec.json.decode(content, type=Holder) if content is not None else None
        except msgspec.DecodeError:
            return Holder("somebody", "", 0, "", 0.0, "unknown")

    def _lives(self, holder: Holder) -> bool:
        if time.time() - holder.seen_s > self._stale_s:
            return False
        return holder.machine != machine() or Path(f"/proc/{holder.process}").exists()

    def _refused(self, holder: Holder) -> UserError:
        fix = f"wait until it has ended, or end it; a claim that is not renewed is given up after {self._stale_s:g} s"
        return UserError(f"{holder.who} writes this data set", where=self._destination.where, fix=fix)


def machine() -> str:
    """Where process ids mean the same: this boot of this machine, and this namespace in it."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
