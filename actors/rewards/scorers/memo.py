"""Answers of a function of texts that are kept, within a bound of memory whatever the texts are."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from cachetools import LRUCache

Answer = TypeVar("Answer")
ENTRY_BYTES = 384
"""Of what is kept besides texts and answer: tuples, and a place in three tables."""


class Memo(Generic[Answer]):
    """Calls `function`, or gives the answer that it gave to the same texts before. The oldest answers go. Thread-safe."""

    def __init__(self, function: Callable[..., Answer], max_bytes: int, size_bytes: Callable[[Answer], int]) -> None:
        """`size_bytes` says what an answer takes, roughly; its texts are added. What is larger than `max_bytes` is not kept."""
        self._function, self._size_bytes = function, size_bytes
        self._kept: LRUCache[tuple[Any, ...], tuple[int, Answer]] = LRUCache(max_bytes, getsizeof=lambda kept: kept[0])
        self._lock = threading.Lock()

    def __call__(self, *texts: str | bool) -> Answer:
        """The function's answer; its errors are not kept."""
        with self._lock:
            kept = self._kept.get(texts)
        if kept is not None:
            return kept[1]
        answer = self._function(*texts)
        size_bytes = ENTRY_BYTES + sum(map(sys.getsizeof, texts)) + self._size_bytes(answer)
        with self._lock, suppress(ValueError):  # larger than all that may be kept
            self._kept[texts] = size_bytes, answer
        return answer

    @property
    def bytes(self) -> int:
        """What is kept takes so much."""
        return int(self._kept.currsize)
