"""What a stage has finished, on disk: one file of drafts a block, each whole or not there.

``<folder>/000000.jsonl`` holds block 0, one draft a line, rejected ones among them. A block is written under a hidden name, synced and
renamed, and never changes afterwards. Looking at a shelf changes nothing, so others may look while a run writes; what a killed run left
half written is overwritten by the next block.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from actors.synthesis.records import Draft
from protocol.dataset.disk import Appearing, telling
from protocol.errors import UserError

_LINES = msgspec.json.Encoder()
_DRAFT = msgspec.json.Decoder(Draft)


class Shelf:
    """The blocks of one stage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.committed = 0
        """Blocks on disk, without a gap: 0 to `committed` - 1."""
        if folder.is_dir():
            self._count()

    def _count(self) -> None:
        names = {path.name for path in self.folder.glob("*.jsonl")}
        while _name(self.committed) in names:
            self.committed += 1
        if len(names) > self.committed:
            raise UserError(
                f"block {self.committed} is missing and later ones are there",
                where=str(self.folder / _name(self.committed)),
                fix="put the file back, or take the later ones away: they are made again",
            )

    @property
    def drafts(self) -> int:
        """How many the first stage has named in these blocks: they are numbered from 0 on, without a gap."""
        return int(self.read(self.committed - 1)[-1].id) + 1 if self.committed else 0

    def read(self, number: int) -> list[Draft]:
        """A committed block. Raises `UserError` that names file and line where somebody has damaged it."""
        path = self.folder / _name(number)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"the block cannot be read ({error.strerror})", where=str(path), fix="put the file back") from error
        drafts = []
        for line_number, line in enumerate(content.splitlines(), 1):
            try:
                drafts.append(_DRAFT.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                where, fix = f"{path}, line {line_number}", "put the line back, or take away this block and all later ones of every stage"
                raise UserError(f"no draft: {error}", where=where, fix=fix) from None
        return drafts

    def kept(self, number: int) -> list[Draft]:
        """Those of a committed block that go on to the next stage."""
        return [draft for draft in self.read(number) if draft.kept]

    def every(self) -> Iterator[Draft]:
        """All drafts of all committed blocks, in order, rejected ones too."""
        for number in range(self.committed):
            yield from self.read(number)

    def commit(self, number: int, drafts: Sequence[Draft]) -> None:
        """Put the next block there, for good. Raises `UserError` when the disk does not take it; nothing of it is then to be seen."""
        if number != self.committed:
            raise ValueError(f"block {number} after {self.committed} blocks")
        with Appearing(self.folder / _name(number)) as file:
            file.write(b"".join(_LINES.encode(draft) + b"\n" for draft in drafts))
        self.committed += 1

    def clear(self) -> None:
        """Take all of it away, the last block first, so that what is left of it at any moment has no gap. Raises `UserError`."""
        with telling(self.folder):
            for path in sorted(self.folder.glob("*.jsonl"), reverse=True):
                path.unlink()
            if self.folder.is_dir():
                shutil.rmtree(self.folder)
        self.committed = 0


def _name(number: int) -> str:
    return f"{number:06d}.jsonl"
