"""Utterances that belong together, wherever they stand in the source, put aside on disk until all are read.

Edge: sqlite3, in a file of its own, so that memory does not grow with the data set.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from actors.datasets.fields import Texts
from protocol.dataset import Location
from protocol.errors import UserError
from protocol.messages import InstructionGroup, Utterance

TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE groups (place INTEGER PRIMARY KEY, key TEXT UNIQUE, name TEXT, texts BLOB, seen TEXT);
CREATE TABLE utterances (place INTEGER, number INTEGER, utterance BLOB, location BLOB, PRIMARY KEY (place, number)) WITHOUT ROWID;
"""
_utterances = msgspec.msgpack.Decoder(Utterance)
_locations = msgspec.msgpack.Decoder(Location | None)
_texts = msgspec.msgpack.Decoder(Texts)


class Gathering:
    """Groups in the order in which their first utterances came, utterances in the order in which they came."""

    def __init__(self, path: Path) -> None:
        """`path`: a file that does not exist yet, and is removed at the end."""
        self._path = path
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(TABLES)
        self._database.execute("BEGIN")
        self._number = 0

    def add(self, key: str, name: str, texts: Texts, utterance: Utterance, location: Location | None, where: str) -> bool:
        """Put an utterance to the group `key`, which will be called `name` if it is the first one. False for one that is there.

        `location` is its audio's. Raises `UserError` where the group says something else already.
        """
        packed = msgspec.msgpack.encode(texts)
        run = self._database.execute
        found = run("SELECT place, texts, seen FROM groups WHERE key = ?", (key,)).fetchone()
        if found is None:
            place = run("INSERT INTO groups (key, name, texts, seen) VALUES (?, ?, ?, ?)", (key, name, packed, where)).lastrowid
        elif found[1] != packed:
            raise _conflict(name, _texts.decode(found[1]), texts, found[2], where)
        else:
            place = found[0]
        coded = msgspec.msgpack.encode(utterance)
        if run("SELECT 1 FROM utterances WHERE place = ? AND utterance = ?", (place, coded)).fetchone():
            return False
        self._number += 1
        run("INSERT INTO utterances VALUES (?, ?, ?, ?)", (place, self._number, coded, msgspec.msgpack.encode(location)))
        return True

    def groups(self) -> Iterator[tuple[InstructionGroup, dict[str, Location]]]:
        """All of them, and where their audio lies. Voices without a name get one: ``voice-1``, ``voice-2`` …"""
        place, gathered = 0, list[tuple[Utterance, Location | None]]()
        head: tuple[str, Texts] | None = None
        query = "SELECT place, name, texts, utterance, location FROM groups JOIN utterances USING (place) ORDER BY place, number"
        for row_place, name, texts, utterance, location in self._database.execute(query):
            if row_place != place:
                if head is not None:
                    yield _group(*head, gathered)
                place, head, gathered = row_place, (name, _texts.decode(texts)), []
            gathered.append((_utterances.decode(utterance), _locations.decode(location)))
        if head is not None:
            yield _group(*head, gathered)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()
        self._path.unlink(missing_ok=True)


def _group(name: str, texts: Texts, gathered: list[tuple[Utterance, Location | None]]) -> tuple[InstructionGroup, dict[str, Location]]:
    named = [msgspec.structs.replace(each, speaker=each.speaker or f"voice-{place}") for place, (each, _) in enumerate(gathered, 1)]
    group = InstructionGroup(
        group_id=name,
        instruction=texts.instruction,
        reference=texts.reference,
        utterances=named,
        prompt=texts.prompt,
        topic=texts.topic,
        language=texts.language,
        answers=list(texts.answers),
    )
    return group, {each.audio: location for each, location in gathered if each.audio is not None and location is not None}


def _conflict(name: str, first: Texts, other: Texts, seen: str, where: str) -> UserError:
    what = next(each for each in Texts.__dataclass_fields__ if getattr(first, each) != getattr(other, each))
    fix = "correct it, or name another column for the group with --column group=…"
    return UserError(f"the group {name!r} has another {what} than in {seen}", where=where, fix=fix)
