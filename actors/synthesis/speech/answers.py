"""What a speech server's answer holds: samples, or why it holds none. Edge: soundfile."""

from __future__ import annotations

import numpy as np

from actors.synthesis.speech.backend import NoSpeechError, Said
from actors.synthesis.speech.headers import read_header

SHOWN = 120
"""Characters of an answer that a fault quotes."""


def read_answer(content: bytes, content_type: str, response_format: str, pcm_rate_hz: int) -> Said:
    """Samples ``[sample, channel]`` and their rate. Raises `NoSpeechError` for text, an empty body, and what is cut off or no
    audio.
    """
    if not content:
        raise NoSpeechError("empty answer")
    if _is_text(content, content_type):
        raise NoSpeechError("no audio", content[: 4 * SHOWN].decode(errors="replace").strip()[:SHOWN])
    if response_format == "pcm" and content[:4] not in {b"RIFF", b"fLaC"}:
        if len(content) % 2:
            raise NoSpeechError("half a file", f"{len(content)} bytes of 16-bit samples")
        return np.frombuffer(content, "<i2").astype(np.float64)[:, None] / 32768, pcm_rate_hz
    return _decode(content)


def _is_text(content: bytes, content_type: str) -> bool:
    """True for HTML, JSON and plain words, whatever the server calls them."""
    if content_type.startswith(("text/", "application/json")):
        return True
    return all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in content[:64])


def _decode(content: bytes) -> Said:
    import io

    import soundfile

    try:
        header = read_header(content, len(content))
        samples, rate_hz = soundfile.read(io.BytesIO(content), dtype="float64", always_2d=True)
    except (ValueError, RuntimeError) as error:  # soundfile's own error is a RuntimeError
        raise NoSpeechError("half a file" if content[:4] in {b"RIFF", b"fLaC"} else "no audio", str(error)) from None
    if len(samples) < header.frames or header.end > len(content):
        raise NoSpeechError("half a file", f"{len(samples)} of {header.frames} samples")
    return samples, rate_hz
