"""FLEURS, as on the Hugging Face hub (google/fleurs): 350 sentences and more of FLoRes a split, read in 102 languages.

    <folder>/[data/]<language>/{train,dev,test}.tsv
    <folder>/[data/]<language>/audio/{train,dev,test}.tar.gz      or the unpacked folders audio/{train,dev,test}/

A line of a table has seven columns and no header: sentence id, file, transcript as written, transcript normalised, its characters,
number of samples, gender. The id names the sentence in all languages, and up to three speakers have read it; every recording counts as
one, in training and, as usual for this corpus, in the test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actors.synthesis.corpora.archive import Archive
from actors.synthesis.corpora.corpus import Corpus, Recording, damaged, lines, missing
from actors.synthesis.corpora.languages import fleurs_code
from actors.synthesis.corpora.sound import DamagedSoundError, Sound, decode
from protocol.errors import UserError

TABLES = {"train": "train", "validation": "dev", "test": "test"}
COLUMNS = 7


class Fleurs(Corpus):
    """One language into another, by the sentences that both have."""

    name = "FLEURS"

    def __init__(self, folder: Path, source: str, target: str) -> None:
        self._root = folder / "data" if (folder / "data").is_dir() else folder
        self.source, self.target = source, target
        self._spoken, self._translated = self._root / fleurs_code(source), self._root / fleurs_code(target)
        self._archives: dict[str, Archive] = {}
        self._names: dict[str, dict[str, int]] = {}
        self._translations: dict[str, str] | None = None

    def recordings(self, split: str) -> Sequence[Recording]:
        """In the order of the split's archive, or by name where it has been unpacked; last those that it lacks. Of two rows for one file
        the later one counts, as for the corpus' own loader.
        """
        table = self._spoken / f"{TABLES[split]}.tsv"
        found = {file: (number, sentence, text, gender) for number, sentence, file, text, gender in _rows(table)}
        names = self._files(TABLES[split])
        translations = self._sentences()
        return [
            Recording(
                id=f"{TABLES[split]}/{file.removesuffix('.wav')}",
                transcript=text,
                translation=translations.get(sentence, ""),
                speaker=f"{self.source}-{gender.lower()}",
                sentence=sentence,
                file=file,
                row=f"{table}, line {number}",
            )
            for file, (number, sentence, text, gender) in sorted(found.items(), key=lambda item: names.get(item[0], len(names)))
        ]

    def sound(self, recording: Recording) -> Sound:
        """From the unpacked folder, else from the archive, which is read forwards."""
        split = recording.id.partition("/")[0]
        unpacked = self._spoken / "audio" / split
        if unpacked.is_dir():
            return decode(unpacked / recording.file, recording.row)
        archive = self._archives.setdefault(split, Archive(self._place(split)))
        try:
            return decode(archive.read(recording.file), recording.row)
        except KeyError:
            raise DamagedSoundError(
                f"{recording.file} is not in {archive.path}", where=recording.row, fix="fetch the archive again"
            ) from None

    def _files(self, split: str) -> dict[str, int]:
        """Where each recording stands in the order of reading."""
        if split not in self._names:
            unpacked = self._spoken / "audio" / split
            names = sorted(path.name for path in unpacked.iterdir()) if unpacked.is_dir() else Archive(self._place(split)).names()
            self._names[split] = {name: position for position, name in enumerate(names)}
        return self._names[split]

    def _place(self, split: str) -> Path:
        return self._spoken / "audio" / f"{split}.tar.gz"

    def _sentences(self) -> dict[str, str]:
        """The sentences of the target language by id, of all splits: what is in the test of one language may be in another's training."""
        if self._translations is None:
            if not self._translated.is_dir():
                raise missing(self._translated)
            self._translations = {}
            for split in ("train", "dev", "test"):  # later ones win
                for _, sentence, _, text, _ in _rows(self._translated / f"{split}.tsv"):
                    self._translations[sentence] = text
        return self._translations


def tested(folder: Path, language: str) -> tuple[set[str], list[str]]:
    """(ids of all sentences in the test of any language that is there, transcripts of the test in `language`)."""
    root = folder / "data" if (folder / "data").is_dir() else folder
    tables = sorted(root.glob("*/test.tsv"))
    own = root / fleurs_code(language) / "test.tsv"
    if own not in tables:
        raise missing(own)
    rows = {table: _rows(table) for table in tables}
    return {sentence for of in rows.values() for _, sentence, _, _, _ in of}, [text for _, _, _, text, _ in rows[own]]


def _rows(table: Path) -> list[tuple[int, str, str, str, str]]:
    """(line, sentence id, file, transcript, gender) of each recording."""
    rows = []
    for number, line in lines(table):
        if not line:
            continue
        columns = line.split("\t")
        if len(columns) != COLUMNS or not columns[0].isdigit():
            raise damaged(table, number, f"{len(columns)} columns, expected {COLUMNS} of which the first is a sentence's number")
        sentence, file, text, gender = columns[0], columns[1], columns[2], columns[6]
        rows.append((number, sentence, file, text.strip(), gender))
    if not rows:
        raise UserError("the table is empty", where=str(table), fix="fetch the file again")
    return rows
