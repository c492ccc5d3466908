"""Which format a path is of, and its reader."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import get_args

from actors.datasets.fields import Fields
from actors.datasets.names import Source
from actors.datasets.readers import huggingface, jsonl, nemo, shar, swift, webdataset
from actors.datasets.records import Record
from protocol.errors import UserError


def guess(source: str) -> Source:
    """The format of `source`, where that is clear. Raises `UserError`."""
    path = Path(source)
    if not path.exists():
        if source.count("/") == 1 and not source.startswith((".", "/", "~")) and not path.suffix:
            return "hf"
        raise UserError("there is no such file or folder", where=source, fix="check the path")
    if path.is_dir():
        if any(path.glob("cuts.*jsonl*")):
            return "shar"
        if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")) or any(path.rglob("*.parquet")):
            return "hf"
        if any(path.rglob("*.tar")):
            return "webdataset"
    elif path.suffix in {".parquet", ".arrow"}:
        return "hf"
    elif ".tar" in path.suffixes or path.suffix == ".tgz":
        return "webdataset"
    elif {".jsonl", ".json"} & set(path.suffixes):
        for _, line in islice(jsonl.lines(path), 1):
            if "messages" in line:
                return "swift"
            if nemo.AUDIO_KEY in line:
                return "nemo"
    raise UserError("its format is not clear", where=source, fix=f"name it with --format: {', '.join(get_args(Source))}")


def read(source: str, kind: Source, fields: Fields, split: str | None = None, subset: str | None = None) -> Iterator[Record]:
    """The records of `source`. Raises `UserError`."""
    path = Path(source)
    if kind == "hf":
        return huggingface.records(source, fields, split, subset)
    if split is not None or subset is not None:
        raise UserError(f"{kind} has no splits", where="--split and --subset", fix="leave them out, and name the file of the split")
    if not path.exists():
        raise UserError("there is no such file or folder", where=source, fix="check the path")
    if (kind in {"nemo", "swift"} and path.is_dir()) or (kind == "shar" and path.is_file()):
        raise UserError(f"{kind} is a {'folder' if path.is_file() else 'file'}", where=source, fix="name that")
    readers = {"nemo": nemo.records, "swift": swift.records, "shar": shar.records, "webdataset": webdataset.records}
    return readers[kind](path, fields)
