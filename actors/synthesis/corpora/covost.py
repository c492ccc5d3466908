"""CoVoST 2: translations of Common Voice 4 (cv-corpus-4-2019-12-10), in the layout that fairseq's recipe makes.

    <folder>/validated.tsv                      of Common Voice: path, sentence, client_id among its columns
    <folder>/covost_v2.<source>_<target>.tsv    of CoVoST: path, translation, split
    <folder>/clips/*.mp3

The rows of both tables that name the same clip belong together.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from actors.synthesis.corpora.corpus import Corpus, Recording, damaged, lines
from actors.synthesis.corpora.languages import check_direction, covost_code
from actors.synthesis.corpora.sound import Sound, decode
from protocol.errors import UserError

SPLITS = {"train": "train", "train_covost": "train", "dev": "validation", "test": "test"}
"""CoVoST's, and what they are here."""
SPEAKER_DIGITS = 12
"""Of Common Voice's client_id, a hash of 128 digits."""


class Covost(Corpus):
    """One direction of CoVoST 2."""

    name = "CoVoST 2"

    def __init__(self, folder: Path, source: str, target: str) -> None:
        check_direction(self.name, source, target)
        self.source, self.target = source, target
        self._clips = folder / "clips"
        self._validated = folder / "validated.tsv"
        self._translations = folder / f"covost_v2.{covost_code(source)}_{covost_code(target)}.tsv"
        self._splits: dict[str, list[Recording]] | None = None

    def recordings(self, split: str) -> Sequence[Recording]:
        """In the order of validated.tsv."""
        if self._splits is None:
            self._splits = self._read()
        return self._splits[split]

    def sound(self, recording: Recording) -> Sound:
        """From its clip."""
        return decode(self._clips / recording.file, f"{recording.file}, {recording.row}")

    def _read(self) -> dict[str, list[Recording]]:
        translated = {}
        for number, row in _table(self._translations, ("path", "translation", "split")):
            if row["split"] not in SPLITS:
                raise damaged(self._translations, number, f"{row['split']!r} is no split of CoVoST, which has {', '.join(SPLITS)}")
            translated[row["path"]] = (row["translation"].strip(), SPLITS[row["split"]])
        found: dict[str, list[Recording]] = {"train": [], "validation": [], "test": []}
        table = str(self._validated)
        for number, row in _table(self._validated, ("path", "sentence", "client_id")):
            if row["path"] not in translated:
                continue
            translation, split = translated.pop(row["path"])
            found[split].append(
                Recording(
                    id=row["path"].removesuffix(".mp3"),
                    transcript=row["sentence"].strip(),
                    translation=translation,
                    speaker=f"{self.source}-{row['client_id'][:SPEAKER_DIGITS]}",
                    file=row["path"],
                    row=f"{table}, line {number}",
                )
            )
        if not any(found.values()):
            raise UserError(
                f"no clip of {self._translations.name} is in it",
                where=str(self._validated),
                fix=f"take Common Voice 4 of {covost_code(self.source)}, which CoVoST 2 translates",
            )
        return found


def _table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, the named columns) of each row below the header; a backslash takes the meaning from the character behind it."""
    header: list[str] | None = None
    wanted: dict[str, int] = {}
    for number, line in lines(path):
        if not line:
            continue
        try:
            cells = next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\"), [])
        except csv.Error as error:
            raise damaged(path, number, f"no row of a table ({error})") from None
        if header is None:
            header = cells
            if lacking := [name for name in columns if name not in header]:
                raise damaged(path, number, f"no column {lacking[0]} in the header, which reads {', '.join(header)}")
            wanted = {name: header.index(name) for name in columns}
        elif max(wanted.values()) < len(cells) <= len(header):  # empty cells at the end may be left out
            yield number, {name: cells[place] for name, place in wanted.items()}
        else:
            raise damaged(path, number, f"{len(cells)} columns, and the header has {len(header)}")
    if header is None:
        raise UserError("the table is empty", where=str(path), fix="fetch the file again")
