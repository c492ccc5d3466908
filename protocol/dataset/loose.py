"""A manifest whose audio lies in files of their own, named by content. Edge: the file system."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from protocol.audio import audio_hash
from protocol.dataset.disk import Appearing
from protocol.dataset.lines import Location, write_line
from protocol.messages import InstructionGroup


class ManifestWriter:
    """Writes a manifest and the audio files beside it, for small data sets; `path` appears when it is closed without an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = Appearing(path)
        self._locations: dict[str, Location] = {}

    def add_audio(self, content: bytes, suffix: str = ".flac") -> str:
        """Store one audio file and return its content hash."""
        name = audio_hash(content)
        if name not in self._locations:
            digest = name.removeprefix("xxh128:")
            relative = f"audio/{digest[:2]}/{digest}{suffix}"
            target = self.path.parent / relative
            if not target.exists():
                with Appearing(target, durable=False) as file:  # thousands of them; the run checks each by its hash
                    file.write(content)
            self._locations[name] = Location(relative)
        return name

    def add(self, group: InstructionGroup) -> None:
        """Write one group. Its audio must have been added."""
        self._file.write(write_line(group, self._locations))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.__exit__(kind, error, trace)
