"""Which teacher a recipe's section means."""

from __future__ import annotations

from actors.synthesis.teacher.teacher import Teacher
from configs.teaching import LanguageModelSection


def open_teacher(section: LanguageModelSection, where: str = "teacher") -> Teacher:
    """The language model of the section at the key `where`, not started yet. Names in it are resolved. Raises `UserError`."""
    if section.url is not None:
        from actors.synthesis.teacher.completions import ServedTeacher

        return ServedTeacher(section, where)
    from actors.synthesis.teacher.vllm import VllmTeacher  # vLLM takes seconds to import, and is not needed beside a server

    return VllmTeacher(section, where)
