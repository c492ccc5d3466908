"""Rows with an audio column, in parquet files or in those of `datasets.save_to_disk`. Edge: pyarrow.

The schema's metadata tells `datasets` which column is audio, and at which rate.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from actors.datasets.libraries import library
from protocol.audio import SAMPLE_RATE

FILE_BYTES = 400 << 20
"""Audio in one file, about."""
BATCH_BYTES = 16 << 20
"""Audio that is written at once: a row group of parquet, a batch of arrow."""
AUDIO = "audio"


class AudioTable:
    """Files ``SPLIT-00000-of-00001.parquet`` of one split, in `folder`. Use as a context manager."""

    def __init__(self, folder: Path, split: str, texts: Iterable[str], lists: Iterable[str] = (), *, suffix: str = "parquet") -> None:
        """`texts` and `lists` name the columns of text and of lists of texts; the audio comes last."""
        arrow = self._arrow = library("pyarrow", str(folder))
        self._parquet = library("pyarrow.parquet", str(folder))
        self._folder, self._split, self._suffix = folder, split, suffix
        text, features = {"dtype": "string", "_type": "Value"}, dict[str, Any]()
        columns: list[tuple[str, Any]] = []
        for name in texts:
            features[name], columns = text, [*columns, (name, arrow.string())]
        for name in lists:
            features[name], columns = {"feature": text, "_type": "List"}, [*columns, (name, arrow.list_(arrow.string()))]
        features[AUDIO] = {"sampling_rate": SAMPLE_RATE, "_type": "Audio"}
        columns.append((AUDIO, arrow.struct({"bytes": arrow.binary(), "path": arrow.string()})))
        self.features: Mapping[str, Any] = features
        self._schema = arrow.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": features}})})
        self._rows: list[dict[str, Any]] = []
        self._row_bytes = self._file_bytes = 0
        self._writer: Any = None
        self._drafts: list[Path] = []
        self.files: list[Path] = []
        """Names of the files, when it is closed."""
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, row: Mapping[str, Any], audio: bytes | None, name: str) -> None:
        """One row; `name` is the file name that goes with the audio."""
        self._rows.append({**row, AUDIO: None if audio is None else {"bytes": audio, "path": name}})
        self._row_bytes += len(audio or b"")
        if self._row_bytes >= BATCH_BYTES or len(self._rows) >= 1000:
            self._flush()

    def _flush(self) -> None:
        if self._file_bytes >= FILE_BYTES:
            self._end_file()
        if self._writer is None:
            path = self._folder / f"{self._split}-{len(self._drafts):05d}.draft"
            self._drafts.append(path)
            parquet = self._suffix == "parquet"
            self._writer = self._parquet.ParquetWriter(path, self._schema) if parquet else self._arrow.ipc.new_stream(path, self._schema)
        self._writer.write_batch(self._arrow.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._file_bytes += self._row_bytes
        self._rows, self._row_bytes = [], 0

    def _end_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._file_bytes = None, 0

    def __enter__(self) -> AudioTable:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and (self._rows or not self._drafts):
            self._flush()
        self._end_file()
        for number, path in enumerate(self._drafts):
            self.files.append(path.rename(self._folder / f"{self._split}-{number:05d}-of-{len(self._drafts):05d}.{self._suffix}"))
