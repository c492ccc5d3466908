"""Hands work to the one thread that owns a socket."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

import zmq

from protocol.sockets import Context, Socket

Event = TypeVar("Event")


class Mailbox(Generic[Event]):
    """A queue whose owner sleeps in `zmq.Poller`: `put` wakes it through an inproc pair. Only the owner touches `socket`."""

    def __init__(self, context: Context) -> None:
        self._events: deque[Event] = deque()
        self._lock = threading.Lock()
        address = f"inproc://mailbox-{id(self)}"
        self.socket: Socket = context.socket(zmq.PAIR)
        self.socket.bind(address)
        self._sender: Socket = context.socket(zmq.PAIR)
        self._sender.connect(address)
        self._closed = False

    def put(self, event: Event) -> None:
        """Thread-safe; ignored once closed."""
        with self._lock:
            if self._closed:
                return
            self._events.append(event)
            if len(self._events) > 1:
                return  # the owner was woken for the first one and has not come yet
            try:
                self._sender.send(b"", flags=zmq.DONTWAIT)
            except zmq.Again:
                # Full of wake-ups already.
                return

    def take(self) -> list[Event]:
        """All that was put in; by the owner."""
        try:
            while True:
                self.socket.recv(flags=zmq.DONTWAIT)
        except zmq.Again:
            pass
        with self._lock:
            events, self._events = list(self._events), deque()
        return events

    def waiting(self, kind: type[object]) -> int:
        """Events of that kind that nobody took yet."""
        with self._lock:
            return sum(isinstance(event, kind) for event in self._events)

    def close(self) -> None:
        """By the owner."""
        with self._lock:
            self._closed = True
            self._sender.close(linger=0)
        self.socket.close(linger=0)
