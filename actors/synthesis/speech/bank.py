"""Banks of voices: files and folders, read and checked before anything is spoken.

    {"name": "anna", "voice": "af_heart"}                                     a preset of a server
    {"name": "p225", "audio": "refs/p225.wav", "text": "Please call Stella."}   a recording to clone
    {"name": "fred", "espeak": "en-us-nyc+m4", "words_per_minute": 185}         espeak-ng

A CSV file has the same names in its first line. A folder holds `<name>.wav` (or .flac) and `<name>.txt`, or LibriTTS's
`<speaker>/<chapter>/<utterance>.wav` and `.normalized.txt`, of which each speaker gives one recording.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from actors.synthesis.speech.headers import read_header
from actors.synthesis.speech.voices import Voice
from protocol.errors import UserError

SHORTEST_S, LONGEST_S = 3.0, 30.0
"""Bounds of a recording that is cloned."""
PREFERRED_S = (3.0, 10.0)
"""What is looked for where a corpus has many recordings of a speaker."""
HEAD_BYTES = 1 << 16
KEYS = frozenset(each.name for each in fields(Voice))


def read_bank(source: str) -> list[Voice]:
    """The voices of a file or folder, in its order, recordings checked. Raises `UserError` for the first mistake."""
    path = Path(source)
    if path.is_dir():
        found = _folder(path)
    elif path.suffix in {".jsonl", ".csv"} and path.is_file():
        found = _jsonl(path) if path.suffix == ".jsonl" else _csv(path)
    else:
        raise UserError(
            "no such bank of voices", where=f"speech.bank={source}", fix="name a .jsonl or .csv file, or a folder of recordings"
        )
    voices: list[Voice] = []
    names: dict[str, str] = {}
    recordings: dict[str, str] = {}
    for where, voice in found:
        if voice.name in names:
            raise UserError(f"voice {voice.name!r} stands in {names[voice.name]} already", where=where, fix="give each voice one name")
        names[voice.name] = where
        if voice.audio:
            content = _recording(voice, where)
            if content in recordings:
                raise UserError(f"{voice.audio} is the recording of {recordings[content]}", where=where, fix="take one of them out")
            recordings[content] = voice.name
        voices.append(voice)
    if not voices:
        raise UserError("the bank holds no voice", where=source, fix="add one, or leave speech.bank out")
    return voices


def _recording(voice: Voice, where: str) -> str:
    """Hash of a recording that is fit to be cloned."""
    try:
        content = Path(voice.audio).read_bytes()
    except OSError as error:
        raise UserError(
            f"the recording {voice.audio} cannot be read ({error.strerror})", where=where, fix="correct `audio`, a path beside the bank"
        ) from error
    try:
        duration_s = read_header(content[:HEAD_BYTES], len(content)).duration_s
    except ValueError as error:
        raise UserError(f"{voice.audio} is no recording: {error}", where=where, fix="convert it to WAV or FLAC") from None
    if not SHORTEST_S <= duration_s <= LONGEST_S:
        raise UserError(
            f"{voice.audio} is {duration_s:.2f} s long, and a voice is cloned from {SHORTEST_S:g} to {LONGEST_S:g} s",
            where=where,
            fix="cut another recording, or take the voice out",
        )
    if not voice.text.strip():
        raise UserError(f"the transcript of {voice.audio} is missing", where=where, fix="write what is said in it as `text`")
    return xxhash.xxh3_128_hexdigest(content)


def _jsonl(path: Path) -> Iterator[tuple[str, Voice]]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"not JSON: {error}", where=where, fix="correct the line or take it out") from None
            yield where, _voice(row, path.parent, where)


def _csv(path: Path) -> Iterator[tuple[str, Voice]]:
    rows = csv.DictReader(io.StringIO(_text(path), newline=""))
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        yield where, _voice({key: value for key, value in row.items() if value}, path.parent, where)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the bank cannot be read ({error})", where=str(path), fix="check speech.bank") from error


def _voice(row: Any, beside: Path, where: str) -> Voice:
    unknown = sorted(str(key) for key in row.keys() - KEYS) if isinstance(row, dict) else []
    if unknown:
        raise UserError(f"a voice has no {unknown[0]!r}", where=where, fix=f"its keys are {', '.join(sorted(KEYS))}")
    try:
        voice = msgspec.convert(row, Voice, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"not a voice: {error}", where=where, fix="correct the line or take it out") from None
    if not voice.name.strip():
        raise UserError("the voice has no name", where=where, fix="give it one")
    return replace(voice, audio=str(beside / voice.audio)) if voice.audio else voice


def _folder(path: Path) -> Iterator[tuple[str, Voice]]:
    speakers = sorted({utterance.parts[-3] for utterance in path.glob("*/*/*.normalized.txt")})
    if speakers:
        yield from (_of_corpus(path / speaker) for speaker in speakers)
        return
    for audio in sorted((*path.glob("*.wav"), *path.glob("*.flac"))):
        text = audio.with_suffix(".txt")
        yield str(audio), Voice(name=audio.stem, audio=str(audio), text=_text(text).strip() if text.is_file() else "")


def _of_corpus(folder: Path) -> tuple[str, Voice]:
    """A speaker's first recording of a fitting length; the name says which corpus' speaker it is."""
    for audio in sorted((*folder.glob("*/*.wav"), *folder.glob("*/*.flac"))):
        text = audio.with_suffix(".normalized.txt")
        if not text.is_file():
            continue
        with audio.open("rb") as file:
            try:
                duration_s = read_header(file.read(HEAD_BYTES), audio.stat().st_size).duration_s
            except ValueError:
                continue
        if PREFERRED_S[0] <= duration_s <= PREFERRED_S[1]:
            return str(folder), Voice(name=folder.name, audio=str(audio), text=_text(text).strip(), language="en")
    raise UserError(
        f"no recording of speaker {folder.name} takes {PREFERRED_S[0]:g} to {PREFERRED_S[1]:g} s",
        where=str(folder),
        fix="take the speaker's folder out",
    )
