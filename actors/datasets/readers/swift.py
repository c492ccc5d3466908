"""ms-swift's JSON lines: `messages` with ``<audio>`` in them, and `audios`.

The user's text beside the audio is the task's prompt, the assistant's answer the reference. What is rejected (`rejected_response`,
`rejected_messages`, `rejected_audios`) is left out: it is sampled anew in a run.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.datasets.fields import Fields
from actors.datasets.readers.jsonl import lines
from actors.datasets.records import Clip, Record
from protocol.errors import UserError

PLACEHOLDER = "<audio>"
FIX = "correct the line or take it out"
ANSWERED = ("user", "assistant")


def records(source: Path, fields: Fields) -> Iterator[Record]:
    """One record a line. Paths are relative to the file. Raises `UserError`."""
    for where, line in lines(source):
        user, answer = _turns(line.get("messages"), where)
        audios = line.get(fields.audio or "audios", line.get("audio")) or []
        audios = audios if isinstance(audios, list) else [audios]
        if len(audios) > 1 or user.count(PLACEHOLDER) > 1:
            raise UserError("more than one audio; a group has one in each utterance", where=where, fix=FIX)
        if user.count(PLACEHOLDER) > len(audios):
            raise UserError(f"{PLACEHOLDER} without an entry in audios", where=where, fix=FIX)
        text = user.replace(PLACEHOLDER, "").strip()
        extra = {key: value for key, value in line.items() if key not in {"messages", "audios", "audio"}}
        beside = {"prompt": text, "instruction": ""} if audios else {"prompt": "", "instruction": text}
        yield Record(where, {**beside, **extra, "reference": answer}, _clip(audios[0], source, where) if audios else None)


def _turns(messages: Any, where: str) -> tuple[str, str]:
    """What the user says, and the answer."""
    try:
        turns = [(message["role"], message["content"]) for message in messages]
    except (TypeError, KeyError):
        raise UserError("no messages with a role and a content each", where=where, fix=FIX) from None
    roles = tuple(role for role, _ in turns)
    if roles and roles[0] == "system":
        raise UserError("a system message, which a group has no place for", where=where, fix="take the message out")
    if roles != ANSWERED:
        raise UserError(
            f"messages of {', '.join(map(str, roles)) or 'nobody'}, expected one of the user and one answer", where=where, fix=FIX
        )
    if not all(isinstance(content, str) for _, content in turns):
        raise UserError("a content that is not text", where=where, fix=FIX)
    return turns[0][1], turns[1][1]


def _clip(audio: Any, source: Path, where: str) -> Clip:
    if isinstance(audio, dict):
        audio = audio.get("path") or audio.get("bytes")
    if not isinstance(audio, str) or not audio:
        raise UserError("an audio that is no path", where=where, fix=FIX)
    if audio.startswith("data:"):
        try:
            return Clip(content=base64.b64decode(audio.partition(",")[2], validate=True))
        except binascii.Error as error:
            raise UserError(f"an audio that is not base64 ({error})", where=where, fix=FIX) from None
    if "://" in audio:
        raise UserError(f"{audio} is not on this machine", where=where, fix="download it, and name the file")
    return Clip(path=source.parent / audio)
