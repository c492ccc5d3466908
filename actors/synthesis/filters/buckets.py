"""A hash table of numbers in numpy arrays, read and written a block at a time. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EMPTY = 0xFFFFFFFF
_SMALLEST_BITS = 10


class Buckets:
    """Who came first with a key. Eight bytes a place and at most half of the places taken: 16 to 32 bytes a key. Open addressing."""

    def __init__(self) -> None:
        self._bits = _SMALLEST_BITS
        self._keys = np.zeros(1 << self._bits, dtype=np.uint32)
        self._owners = np.full(1 << self._bits, EMPTY, dtype=np.uint32)
        self._taken = 0

    def __len__(self) -> int:
        return self._taken

    @property
    def size_bytes(self) -> int:
        """Of the arrays."""
        return self._keys.nbytes + self._owners.nbytes

    def owners(self, keys: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Each key's owner, `EMPTY` where it has none; in the shape of `keys`."""
        wanted = keys.ravel()
        found = np.full(wanted.shape, EMPTY, dtype=np.uint32)
        waiting, places = np.arange(len(wanted)), self._places(wanted)
        while len(waiting):
            owners = self._owners[places]
            other = self._keys[places] != wanted[waiting]
            found[waiting[~other]] = owners[~other]
            on = other & (owners != EMPTY)
            waiting, places = waiting[on], (places[on] + 1) & (len(self._keys) - 1)
        return found.reshape(keys.shape)

    def claim(self, keys: NDArray[np.uint32], owners: NDArray[np.uint32]) -> None:
        """Enter keys, flat, and whose they are. A key that has an owner keeps it, and of equal ones the first counts."""
        if 2 * (self._taken + len(keys)) > len(self._keys):
            taken = self._owners != EMPTY
            known, theirs = self._keys[taken], self._owners[taken]
            self._bits = max(self._bits + 1, int(4 * (self._taken + len(keys)) - 1).bit_length() - 1)
            self._keys, self._owners = np.zeros(1 << self._bits, dtype=np.uint32), np.full(1 << self._bits, EMPTY, dtype=np.uint32)
            self._taken = 0
            self._enter(known, theirs)
        self._enter(keys, owners)

    def _enter(self, keys: NDArray[np.uint32], owners: NDArray[np.uint32]) -> None:
        waiting, places = np.arange(len(keys)), self._places(keys)
        while len(waiting):
            free = self._owners[places] == EMPTY
            # Of several that want one place the first gets it: numpy keeps what it assigns last.
            wanted, by = places[free][::-1], waiting[free][::-1]
            self._keys[wanted], self._owners[wanted] = keys[by], owners[by]
            self._taken += len(np.unique(wanted))
            on = self._keys[places] != keys[waiting]
            waiting, places = waiting[on], (places[on] + 1) & (len(self._keys) - 1)

    def _places(self, keys: NDArray[np.uint32]) -> NDArray[np.int64]:
        return ((keys * np.uint32(0x9E3779B1)) >> np.uint32(32 - self._bits)).astype(np.int64)
