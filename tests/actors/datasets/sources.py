"""Sources of other formats that the tests write, and what the importer reads of them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.datasets import formats
from actors.datasets.fields import Fields
from tests.actors.datasets.sounds import encoded, imported, noise, said


def jsonl(path: Path, *lines: Any) -> Path:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines))
    return path


def wav(folder: Path, name: str = "one.wav", frames: int = 800) -> str:
    (folder / name).write_bytes(encoded(noise(1, frames), form="WAV"))
    return name


def tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def read(source: Path, out: Path, *columns: str, constants: Sequence[str] = (), **options: Any) -> list[Any]:
    """All that a source says, by way of the importer."""
    fields = Fields.parse(columns, constants)
    records = formats.read(str(source), formats.guess(str(source)), fields, options.pop("split", None))
    return said(imported(records, out, fields=fields, **options)[0])
