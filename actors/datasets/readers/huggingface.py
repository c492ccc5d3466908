"""Data sets as Hugging Face's `datasets` keeps them: parquet files, saved folders, names on the Hub. Edge: pyarrow, datasets.

The audio is a column ``struct{bytes, path}``; it is read as it is, so that neither torchcodec nor librosa is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.datasets.fields import AUDIO, Fields
from actors.datasets.libraries import library
from actors.datasets.readers.jsonl import parsed
from actors.datasets.records import Clip, Record
from protocol.errors import UserError

METADATA = b"huggingface"
"""Key of a schema's metadata that tells the features."""
OF_SPLIT = re.compile(r"(.+?)-\d+(-of-\d+)?(-.*)?$")
"""``train-00000-of-00004``."""
ROWS = 16
"""Read at once."""


def records(source: Path | str, fields: Fields, split: str | None = None, subset: str | None = None) -> Iterator[Record]:
    """One record a row: of a file, of the files in a folder, or, for a `source` that is no path here, of a data set on the Hub.

    Raises `UserError`.
    """
    path = Path(source)
    if not path.exists():
        yield from _hub(str(source), fields, split, subset)
        return
    for file in _files(path, split):
        yield from _file(file, fields)


def _files(path: Path, split: str | None) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / "dataset_dict.json").is_file():
        there = parsed((path / "dataset_dict.json").read_bytes(), str(path / "dataset_dict.json")).get("splits", [])
        return _files(path / _chosen(there, split, path), None)
    if (path / "state.json").is_file():
        state = parsed((path / "state.json").read_bytes(), str(path / "state.json"))
        return [path / each["filename"] for each in state.get("_data_files", [])]
    by_split: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*.parquet")) or sorted(path.rglob("*.arrow")):
        match = OF_SPLIT.match(file.stem)
        by_split.setdefault(match[1] if match else file.stem if file.stem == split else "", []).append(file)
    if not by_split:
        raise UserError("no parquet file and no saved data set", where=str(path), fix="name a parquet file, or a folder that has some")
    return by_split[_chosen(list(by_split), split, path)]


def _chosen(there: list[str], split: str | None, path: Path) -> str:
    if split is None and len(there) == 1:
        return there[0]
    if split not in there:
        what = f"there is no split {split!r}" if split else "there are several splits"
        raise UserError(f"{what}: {', '.join(name or 'files without one' for name in there)}", where=str(path), fix="choose with --split")
    return split


def _file(path: Path, fields: Fields) -> Iterator[Record]:
    arrow, parquet = library("pyarrow", str(path)), library("pyarrow.parquet", str(path))
    number = 0
    try:
        is_parquet = path.suffix == ".parquet"
        # Buffered ahead, columns would be held until the end of the file.
        opened = parquet.ParquetFile(path, pre_buffer=False) if is_parquet else arrow.ipc.open_stream(arrow.memory_map(str(path)))
        schema = opened.schema_arrow if is_parquet else opened.schema
        audio = _audio_column(schema, fields, path)
        columns = [name for name in schema.names if name == audio or name in fields.needed(schema.names)]
        batches = opened.iter_batches(ROWS, columns=columns) if is_parquet else (batch.select(columns) for batch in opened)
        for batch in batches:
            for place in range(batch.num_rows):
                number += 1
                (row,) = batch.slice(place, 1).to_pylist()
                yield _record(f"{path}, row {number}", row, audio, lambda name: path.parent / name)
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"it cannot be read ({error})", where=f"{path}, after row {number}", fix="see whether it is whole") from None


def _audio_column(schema: Any, fields: Fields, path: Path) -> str | None:
    """The named column, the one that the features call audio, or the one that looks like it."""
    if fields.audio is not None:
        if fields.audio not in schema.names:
            there = ", ".join(schema.names)
            raise UserError(f"no column {fields.audio!r}; there are: {there}", where=str(path), fix="name another with --column audio=…")
        return fields.audio
    described = json.loads((schema.metadata or {}).get(METADATA, b"{}")).get("info", {}).get("features", {})
    found = [name for name in schema.names if isinstance(described.get(name), Mapping) and described[name].get("_type") == "Audio"]
    if not found:
        structs = [column for column in schema if column.type.num_fields and not hasattr(column.type, "value_type")]
        found = [column.name for column in structs if {field.name for field in column.type} == {"bytes", "path"}]
    if len(found) > 1 and AUDIO not in found:
        raise UserError(f"several columns of audio: {', '.join(found)}", where=str(path), fix="choose one with --column audio=…")
    return AUDIO if AUDIO in found or (not found and AUDIO in schema.names) else found[0] if found else None


def _record(where: str, row: dict[str, Any], audio: str | None, find: Callable[[str], Path]) -> Record:
    found = row.pop(audio, None) if audio is not None else None
    if found is None:
        return Record(where, row, None)
    if isinstance(found, Mapping):
        found = found["bytes"] if found.get("bytes") is not None else found.get("path")
    if isinstance(found, str):
        return Record(where, row, Clip(path=find(found)))
    if not isinstance(found, bytes):
        raise UserError(f"{audio} is no audio", where=where, fix="name the column of the audio with --column audio=…")
    return Record(where, row, Clip(content=found))


def _hub(name: str, fields: Fields, split: str | None, subset: str | None) -> Iterator[Record]:
    datasets = library("datasets", name)
    number = 0
    try:
        rows = datasets.load_dataset(name, subset, split=split or "train", streaming=True)
        features = rows.features or rows._resolve_features().features  # noqa: SLF001 - some builders know them only from the rows
        found = [column for column, feature in features.items() if isinstance(feature, datasets.Audio)]
        if fields.audio is None and len(found) > 1 and AUDIO not in found:
            raise UserError(f"several columns of audio: {', '.join(found)}", where=name, fix="choose one with --column audio=…")
        audio = fields.audio or (AUDIO if AUDIO in found else found[0] if found else None)
        for column in found:
            rows = rows.cast_column(column, datasets.Audio(decode=False))
        for row in rows:
            number += 1
            yield _record(f"{name}, row {number}", row, audio, Path)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        where = f"{name}, after row {number}" if number else name
        fix = "check the path, or for a data set on the Hub the name, --subset, --split and the network"
        what = (str(error) or repr(error)).splitlines()[0]
        raise UserError(f"it cannot be read ({what})", where=where, fix=fix) from None
