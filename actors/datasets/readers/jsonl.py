"""Lines of JSON objects, also gzipped."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from protocol.errors import UserError


def lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line for people, object) of each line that is not empty. Raises `UserError`."""
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield (where := f"{path}, line {number}"), parsed(line, where)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"the file is damaged ({error})", where=f"{path}, after line {number}", fix="copy it anew") from None
    except OSError as error:
        raise UserError(f"it cannot be read ({error.strerror})", where=str(path), fix="check the path") from None


def parsed(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object. Raises `UserError`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", where=where, fix="correct the line or take it out") from None
    if not isinstance(value, dict):
        raise UserError("not a JSON object", where=where, fix="correct the line or take it out")
    return value


def _open(path: Path) -> gzip.GzipFile | BinaryIO:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")
