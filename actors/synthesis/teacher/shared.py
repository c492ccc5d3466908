"""Teachers that several stages share: one starts with the first stage that asks it, and runs until all are closed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from actors.synthesis.teacher.opening import open_teacher
from actors.synthesis.teacher.teacher import Generation, Request, Teacher
from configs.teaching import LanguageModelSection


class Teachers:
    """By what describes them."""

    def __init__(self) -> None:
        self._running = ExitStack()
        self._known: list[tuple[LanguageModelSection, Teacher]] = []

    def teacher(self, section: LanguageModelSection, where: str) -> Teacher:
        """The teacher that `section` describes; equal sections share one. `where` is the section's key. Raises `UserError`."""
        for described, teacher in self._known:
            if described == section:
                return teacher
        self._known.append((section, _Lasting(open_teacher(section, where), self._running)))
        return self._known[-1][1]

    def close(self) -> None:
        """End those that run; `teacher` describes them anew."""
        self._known.clear()
        self._running.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Lasting(Teacher):
    """Starts with its first user, and outlasts the last one until `running` is closed."""

    def __init__(self, teacher: Teacher, running: ExitStack) -> None:
        super().__init__()
        self._teacher, self._running = teacher, running

    @property
    def description(self) -> str:
        return self._teacher.description

    def sample(self, requests: Sequence[Request]) -> list[Generation]:
        return self._teacher.sample(requests)

    def _start(self) -> None:
        self._running.enter_context(self._teacher)

    def _abandon(self) -> None:
        self._teacher._abandon()  # noqa: SLF001 -- it stands for that one

    def _stop(self) -> None:
        """Another stage may come."""
