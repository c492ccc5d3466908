"""Which column or key of a source holds what. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.datasets.records import Record, RefusedError
from protocol.errors import UserError

NAMES: Mapping[str, tuple[str, ...]] = {
    "instruction": ("instruction", "text", "transcript", "transcription", "sentence", "question", "prompt"),
    "reference": ("reference", "answer", "response", "output", "target", "translation", "completion"),
    "prompt": ("prompt", "context"),
    "speaker": ("speaker", "speaker_id", "voice", "client_id"),
    "group": ("group_id", "group"),
    "topic": ("topic", "category"),
    "language": ("language", "target_lang"),
    "answers": ("answers",),
}
"""The roles, and the names that are looked for, the first one that is there: each name serves one role, the uppermost."""
AUDIO = "audio"
"""A role of its own: readers know where their audio is, and a user may name another place."""
SCALARS = {"speaker", "group", "topic", "language"}
"""Roles that may be numbers in the source."""


@dataclass(frozen=True)
class Texts:
    """What a record says, beside its audio."""

    instruction: str = ""
    reference: str = ""
    prompt: str = ""
    speaker: str = ""
    group: str = ""
    topic: str = "other"
    language: str = "en"
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fields:
    """What the user said of the source's columns."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Column by role, in the place of `NAMES`. ``a.b`` is key b of the column a."""
    constants: Mapping[str, str] = field(default_factory=dict)
    """Text by role, the same for every record."""

    @classmethod
    def parse(cls, columns: Iterable[str], constants: Iterable[str]) -> Fields:
        """From ``ROLE=NAME`` and ``ROLE=TEXT``. Raises `UserError`."""
        return cls(_pairs(columns, "--column", {*NAMES, AUDIO}), _pairs(constants, "--set", NAMES.keys() - {"answers"}))

    @property
    def audio(self) -> str | None:
        """Where the user says that the audio is."""
        return self.columns.get(AUDIO)

    def needed(self, there: Iterable[str]) -> list[str]:
        """Of the columns `there`, those that may be read."""
        wanted = {name for names in NAMES.values() for name in names} | {name.partition(".")[0] for name in self.columns.values()}
        return [name for name in there if name in wanted or name in self.columns.values()]

    def texts(self, record: Record) -> Texts:
        """Raises `UserError` where a named column is missing, and `RefusedError` for a record without the texts that it needs."""
        found, used = dict(self.constants), set(self.columns.values())
        for role, names in NAMES.items():
            if role in found:
                continue
            if role in self.columns:
                found[role] = _lookup(record, self.columns[role], role)
                continue
            name = next((name for name in names if name not in used and record.values.get(name) is not None), None)
            if name is not None:
                used.add(name)
                found[role] = record.values[name]
        return _checked(found, record)


def _pairs(texts: Iterable[str], option: str, roles: Iterable[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        role, equals, value = text.partition("=")
        if not equals or role not in roles or (option == "--column" and not value):
            fix = f"write ROLE={'NAME' if option == '--column' else 'TEXT'}, with one of the roles {', '.join(sorted(roles))}"
            raise UserError(f"{option} {text!r} names no role", where="the command line", fix=fix)
        pairs[role] = value
    return pairs


def _lookup(record: Record, name: str, role: str) -> Any:
    if name in record.values:
        return record.values[name]
    value: Any = record.values
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            there = ", ".join(map(str, record.values))
            raise UserError(f"no {name!r}; there are: {there}", where=record.where, fix=f"name another with --column {role}=…")
        value = value[part]
    return value


def _checked(found: Mapping[str, Any], record: Record) -> Texts:
    texts: dict[str, str] = {}
    reference, answers = found.get("reference"), _listed(found.get("answers"), record, "answers")
    if isinstance(reference, list | tuple):  # several answers that are as good: the first one is learned
        every = _listed(reference, record, "reference")
        reference, answers = (every[0] if every else ""), answers or every
    for role in NAMES.keys() - {"answers"}:
        value = reference if role == "reference" else found.get(role)
        if role in SCALARS and isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if value is not None and not isinstance(value, str):
            fix = f"name a column that holds text with --column {role}=…"
            raise UserError(f"the {role} is {type(value).__name__} and not text", where=record.where, fix=fix)
        if value is not None and (value or role not in {"topic", "language"}):
            texts[role] = value
    if not texts.get("reference", "").strip():
        name_it = "name it with --column reference=…, or leave such rows out with --drop empty"
        raise RefusedError("empty", "there is no reference", where=record.where, fix=name_it)
    if record.clip is None and not texts.get("instruction", "").strip():
        raise RefusedError("empty", "there is neither audio nor an instruction", where=record.where)
    return Texts(**texts, answers=answers)


def _listed(value: Any, record: Record, role: str) -> tuple[str, ...]:
    if isinstance(value, Mapping):  # {"text": [...], ...}, as question answering has it
        value = value.get("text")
    if value is None or value == "":
        return ()
    listed = (value,) if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(each, str) for each in listed):
        raise UserError(f"the {role} are no list of texts", where=record.where, fix=f"name a column that holds one with --column {role}=…")
    return tuple(listed)
