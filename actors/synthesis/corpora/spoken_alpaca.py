"""Spoken-Alpaca (GSQA/spoken-alpaca-gpt4 on the Hugging Face hub): the paper's test outside of its domains. Edge: pyarrow.

    <folder>/[data/]*.parquet     columns input_audio (bytes, path), speech_input (what is spoken), output (GPT-4's answer)

It has one split, which is all test here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.synthesis.corpora.corpus import Corpus, Recording, missing
from actors.synthesis.corpora.sound import DamagedSoundError, Sound, decode
from protocol.errors import UserError

AUDIO, SPOKEN, ANSWER = "input_audio", "speech_input", "output"


class SpokenAlpaca(Corpus):
    """Spoken instructions in English, with written answers in English."""

    name = "Spoken-Alpaca"
    source = target = "en"

    def __init__(self, folder: Path) -> None:
        self._root = folder / "data" if (folder / "data").is_dir() else folder
        self._group: tuple[tuple[str, int], Any] | None = None

    def recordings(self, split: str) -> Sequence[Recording]:
        """In the order of the files' names and rows."""
        if split != "test":
            return []
        files = sorted(self._root.glob("*.parquet"))
        if not files:
            raise missing(self._root / "*.parquet")
        found = []
        for path in files:
            table = _open(path)
            for group in range(table.num_row_groups):
                rows = table.read_row_group(group, columns=[SPOKEN, ANSWER]).to_pylist()
                found += [
                    Recording(
                        id=f"{path.stem}/{group}/{row}",
                        transcript=(values[SPOKEN] or "").strip(),
                        translation=(values[ANSWER] or "").strip(),
                        speaker="spoken-alpaca",
                        file=path.name,
                        row=f"{path}, row {row} of row group {group}",
                    )
                    for row, values in enumerate(rows)
                ]
        return found

    def sound(self, recording: Recording) -> Sound:
        """From its row; the row group that was read last is kept."""
        _, group, row = recording.id.rsplit("/", 2)
        key = (recording.file, int(group))
        if self._group is None or self._group[0] != key:
            self._group = (key, _open(self._root / recording.file).read_row_group(int(group), columns=[AUDIO]).column(AUDIO))
        audio = self._group[1][int(row)].as_py()
        if not audio or not audio.get("bytes"):
            fix = "set corpus.skip_damaged=true to leave such recordings out"
            raise DamagedSoundError(f"{AUDIO} holds no bytes", where=recording.row, fix=fix)
        return decode(audio["bytes"], recording.row)


def _open(path: Path) -> Any:
    """The file, with the columns that are needed."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise UserError("reading Parquet needs pyarrow, which is not installed", where=str(path), fix="install rba[formats]") from None
    try:
        file = parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"no Parquet file: {error}", where=str(path), fix="fetch it again") from None
    if lacking := [name for name in (AUDIO, SPOKEN, ANSWER) if name not in file.schema_arrow.names]:
        has = ", ".join(file.schema_arrow.names)
        raise UserError(f"no column {lacking[0]}; it has {has}", where=str(path), fix="fetch GSQA/spoken-alpaca-gpt4 itself")
    return file
