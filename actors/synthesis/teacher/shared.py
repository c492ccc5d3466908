"""Teachers that several stages share: one is started with the first stage that needs it, and runs until all are closed."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from actors.synthesis.teacher.opening import open_teacher
from actors.synthesis.teacher.teacher import Teacher
from configs.synthesis import LanguageModelSection


class Teachers:
    """By what describes them."""

    def __init__(self) -> None:
        self._running = ExitStack()
        self._known: list[tuple[LanguageModelSection, Teacher]] = []

    def teacher(self, section: LanguageModelSection, where: str) -> Teacher:
        """The teacher that `section` describes, running; equal sections share one. `where` is the section's key."""
        for described, teacher in self._known:
            if described == section:
                return teacher
        teacher = self._running.enter_context(open_teacher(section, where))
        self._known.append((section, teacher))
        return teacher

    def close(self) -> None:
        """End all; `teacher` starts them anew."""
        self._known.clear()
        self._running.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
