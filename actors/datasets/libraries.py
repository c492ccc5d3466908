"""Libraries that only some formats need, loaded when they are. Edge: pyarrow, datasets."""

from __future__ import annotations

import importlib
from typing import Any

from protocol.errors import UserError


def library(name: str, where: str) -> Any:
    """The module `name`. Raises `UserError` that says what to install."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise UserError(f"{package} is not installed, which this format needs", where=where, fix="pip install 'rba[formats]'") from None
