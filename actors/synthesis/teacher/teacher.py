"""What a synthesis asks of a language model, wherever it runs: texts that go on from a prompt, or answer a chat."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from protocol.errors import RbaError

Message = Mapping[str, str]
"""One turn of a chat: `role` (system, user or assistant) and `content`."""


class TeacherFailedError(RbaError):
    """The teacher is gone, and stayed away for as long as it is waited for. What was committed stays; the synthesis can be called again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One text that is wanted. Either `prompt_ids` or `messages`."""

    prompt_ids: Sequence[int] | None = None
    """The prompt, as it is: nothing is put before it."""
    messages: Sequence[Message] = ()
    """A chat up to where the assistant's turn starts, in the model's own chat template."""
    max_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: Sequence[int] = ()
    """Beside the model's own end-of-sequence tokens."""
    stop: Sequence[str] = ()
    schema: Mapping[str, Any] | None = None
    """JSON schema: the text is then one JSON value of this form, unless it is cut off at `max_tokens`."""

    def __post_init__(self) -> None:
        if (self.prompt_ids is None) == (not self.messages):
            raise ValueError("a request has either prompt_ids or messages")


@dataclass(frozen=True, slots=True)
class Generation:
    """The text that came."""

    text: str
    """Without what ended it, and without special tokens."""
    tokens: int
    finish_reason: Literal["stop", "length", "refused"]
    """`stop`: the model ended it; `length`: cut off; `refused`: there is none, for a reason that lies in the request alone."""
    detail: str = ""
    """Why it was refused."""


class Teacher(ABC):
    """A language model. Its users enter and leave it as a context manager; it starts with the first of them and ends with the last.
    One that leaves by an error ends what is being sampled.

    Safe to be used by several threads at once, whose requests then share the model's batches.
    """

    def __init__(self) -> None:
        self._entering = threading.Lock()
        self._users = 0

    @property
    @abstractmethod
    def description(self) -> str:
        """Such as ``vllm 0.32.0 (cpu), /models/teacher``."""

    @abstractmethod
    def sample(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation a request, in order. Returns when all are there.

        Raises `TeacherFailedError` when the model is gone, `UserError` for what it cannot do at all.
        """

    @abstractmethod
    def _start(self) -> None:
        """Make it answer. Raises `UserError` or `TeacherFailedError`, and then leaves nothing behind."""

    @abstractmethod
    def _stop(self) -> None:
        """End what `_start` has started."""

    def _abandon(self) -> None:  # noqa: B027 -- a teacher without a life of its own has nothing under way
        """Let go of what is being sampled; whoever waits for it gets a `CancelledError`."""

    def __enter__(self) -> Self:
        with self._entering:
            if not self._users:
                self._start()
            self._users += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:  # nobody will read what its threads still wait for
            self._abandon()
        with self._entering:
            self._users -= 1
            if not self._users:
                self._stop()
