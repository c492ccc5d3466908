"""What the command line calls things."""

from __future__ import annotations

from typing import Literal

Source = Literal["hf", "nemo", "swift", "shar", "webdataset"]
"""Formats that are read."""
Target = Literal["hf", "hf-disk", "swift", "shar", "voicebench"]
"""Formats that are written; hf-disk is what `datasets.load_from_disk` reads."""
Reason = Literal["long", "empty", "damaged"]
"""Why a record may be refused: audio beyond the longest allowed, a text that is missing, audio that cannot be used."""
GroupBy = Literal["id", "text"]
"""Records of one group have the same group id, or say the same."""
