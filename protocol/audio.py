"""Audio as both sides hear it: mono, 16 kHz, float32. Edge: soundfile.

soundfile is imported on first use: a process that is about to host vLLM must not have it loaded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from protocol.errors import UserError

SAMPLE_RATE = 16_000
FIX = "convert it to mono 16 kHz WAV or FLAC, or take the group out of the manifest"

Samples = NDArray[np.float32]
"""float32 ``[sample]`` in -1 to 1, at 16 kHz."""


def audio_hash(content: bytes) -> str:
    """The name of an audio file's content: ``xxh128:<32 hex digits>``."""
    return f"xxh128:{xxhash.xxh3_128_hexdigest(content)}"


def check_content(content: bytes, expected_hash: str, where: str) -> None:
    """Raise `UserError` when the content of the file at `where` is not what `expected_hash` names."""
    if audio_hash(content) != expected_hash:
        raise UserError(
            f"the content is not that of {expected_hash}", where=where, fix="the file was changed: restore it, or write the manifest anew"
        )


def load(path: Path, max_audio_s: float = 30.0, expected_hash: str | None = None) -> Samples:
    """Samples of one file, float32 ``[sample]``.

    Raises `UserError` when it is missing, not the content that `expected_hash` names, or nothing that `decode` takes.
    """
    where = str(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"the audio cannot be read ({error.strerror})", where=where, fix="check the path in the manifest") from error
    if expected_hash is not None:
        check_content(content, expected_hash, where)
    return decode(content, where, max_audio_s)


def decode(content: bytes, where: str, max_audio_s: float = 30.0) -> Samples:
    """Samples of a file's content, float32 ``[sample]``; `where` names it for people.

    Raises `UserError` when it is unreadable, empty, stereo, at another rate or longer than `max_audio_s`.
    """
    import io

    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise UserError(f"no audio that can be decoded ({error})", where=where, fix=FIX) from error
    if samples.shape[1] != 1:
        raise UserError(f"{samples.shape[1]} channels, expected mono", where=where, fix=FIX)
    if rate != SAMPLE_RATE:
        raise UserError(f"{rate} Hz, expected {SAMPLE_RATE}", where=where, fix=FIX)
    if not len(samples):
        raise UserError("the audio is empty", where=where, fix=FIX)
    duration_s = len(samples) / SAMPLE_RATE
    if duration_s > max_audio_s:
        raise UserError(
            f"{duration_s:.2f} s long, at most {max_audio_s:g} s are allowed", where=where, fix="shorten it, or raise data.max_audio_s"
        )
    return np.ascontiguousarray(samples[:, 0])
