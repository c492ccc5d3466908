"""Any OpenAI-compatible POST /v1/audio/speech as a back end: presets, and voices cloned from recordings as vLLM-Omni takes them."""

from __future__ import annotations

import base64
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from actors.synthesis.speech.answers import read_answer
from actors.synthesis.speech.backend import Backend, Line, NoSpeechError, Said
from actors.synthesis.speech.http import RequestRefusedError, Requests
from configs.speech import SpeechServerSection

RECORDINGS_KEPT = 256
"""Encoded recordings that are kept in memory, some 0.5 MB each."""


class OpenAIBackend(Backend):
    """Asks a server, several lines at once."""

    def __init__(self, section: SpeechServerSection) -> None:
        """Raises `UserError` for a malformed URL or a key that is not set."""
        self._section = section
        self.concurrency = section.concurrency
        self.takes = section.takes
        self.requests = Requests(
            section.url,
            "/audio/speech",
            key="speech.server",
            api_key_env=section.api_key_env,
            timeout_s=section.timeout_s,
            attempts=section.attempts,
            concurrency=section.concurrency,
        )

    def say(self, line: Line) -> Said:
        """One line. Raises `NoSpeechError`; `ServerGoneError` and `UserError` where no line would succeed."""
        try:
            response = self.requests.post(json=self.body(line))
        except RequestRefusedError as error:
            raise NoSpeechError("refused", str(error), retry=False) from error
        content_type = response.headers.get("content-type", "")
        return read_answer(response.content, content_type, self._section.response_format, self._section.pcm_rate_hz)

    def body(self, line: Line) -> dict[str, Any]:
        """The request of one line."""
        section, voice = self._section, line.voice
        body: dict[str, Any] = {"model": section.model, "input": line.text, "response_format": section.response_format}
        if voice.audio and section.clone:
            body |= {"ref_audio": _data_uri(voice.audio), "ref_text": voice.text}
        else:
            body["voice"] = voice.served_as
        body |= {key: value for key, value in (("speed", section.speed), ("task_type", section.task_type)) if value is not None}
        return body | section.extra

    def __enter__(self) -> Self:
        self.requests.__enter__()
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.requests.end()  # first: the threads of the pool wait for answers
        super().__exit__(kind, error, trace)
        self.requests.__exit__(kind, error, trace)


@lru_cache(RECORDINGS_KEPT)
def _data_uri(path: str) -> str:
    content = Path(path).read_bytes()
    kind = "flac" if content[:4] == b"fLaC" else "wav"
    return f"data:audio/{kind};base64,{base64.b64encode(content).decode()}"
