"""The stage `speech`: every instruction spoken by several voices, one tar shard a block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from msgspec.structs import replace

from actors.synthesis.records import Draft, Spoken
from actors.synthesis.speech.backend import Line, Take
from actors.synthesis.speech.backends import limits_of, open_backend, voices_of
from actors.synthesis.speech.samples import Clip, Fault
from actors.synthesis.speech.spoken import SpokenForm
from actors.synthesis.speech.transcripts import Listener
from actors.synthesis.speech.voices import Casting, Voice
from actors.synthesis.stage import Stage
from configs.synthesis import SynthesisConfig
from protocol.dataset import ShardWriter
from protocol.errors import RbaError, UserError
from protocol.logs import get_logger

TEXT_SPEAKER = "text"
"""The speaker of an utterance that is written."""
HELD_OUT = ("validation", "test")
"""Splits whose recordings are never spoken anew or listed twice: what is measured is the corpus as it is."""
HOPELESS_LINES = 32
"""So many lines of a block without a single clip: something is wrong that more instructions would not mend."""


@dataclass
class Part:
    """One draft while its voices are found."""

    draft: Draft
    text: str
    """What is said aloud."""
    voices: Iterator[Voice]
    """Who may speak, in the order of the draft."""
    clips: dict[str, Clip] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    """The last one of every voice that failed."""


class Speaking(Stage):
    """Draws the voices, has them speak, checks what is heard, and writes `shards/<number>.tar`."""

    name: ClassVar[str] = "speech"
    reasons: ClassVar[tuple[str, ...]] = ("too few voices",)
    ahead: int = 2

    def __init__(self, config: SynthesisConfig, folder: Path) -> None:
        """`folder`: the synthesis', which gets a folder `shards`. Raises `UserError` for a bank or back end that is wrong."""
        section = config.speech
        self._section, self._folder = section, folder
        self._log = get_logger("speech")
        self._backend = open_backend(section)
        self._voices = voices_of(section)
        self._casting = Casting(self._voices, config.seed)
        self._limits = limits_of(section)
        writes_out = section.spoken_form == "always" or (section.spoken_form == "auto" and not self._backend.reads_numbers)
        self._spoken_form = SpokenForm() if writes_out else None
        self._listener = Listener(section.transcripts, self._spoken_form) if section.transcripts else None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._backend)
            if self._section.bank is not None:
                self._backend.check(self._voices)
            if self._listener is not None and self._section.transcripts is not None:
                self._ears = stack.enter_context(ThreadPoolExecutor(self._section.transcripts.concurrency, thread_name_prefix="listen"))
                stack.enter_context(self._listener)  # ends first: the ears wait for its answers
            self._opened = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opened.__exit__(kind, error, trace)

    def run(self, number: int, drafts: Sequence[Draft]) -> Sequence[Draft]:
        """Speak block `number`. Drafts with a corpus' own recordings keep them, unless `revoice` is set and they are for training.

        Raises `RbaError` when a server is gone, or nothing of a block can be spoken.
        """
        parts = {draft.id: self._part(draft) for draft in drafts if not draft.utterances or self._spoken_again(draft)}
        faults = self._speak(list(parts.values()))
        done = self._write(f"shards/{number:06d}.tar", drafts, parts)
        if faults:
            self._log.info("takes that failed", block=number, spoken=sum(len(part.clips) for part in parts.values()), **dict(faults))
        return done

    # --- speaking -----------------------------------------------------------------------------------------------

    def _part(self, draft: Draft) -> Part:
        language = draft.spoken_language
        if self._casting.speaks(language) < self._section.fewest_voices:
            raise UserError(
                f"{self._casting.speaks(language)} voices speak {language!r}, at least {self._section.fewest_voices} have to",
                where=f"speech.bank, instruction {draft.id}",
                fix="name a bank with voices of that language",
            )
        text = self._spoken_form(draft.instruction, language) if self._spoken_form else draft.instruction
        most = self._section.voices_per_group + self._section.spare_voices
        return Part(draft, text, self._casting.order(draft.id, language, most))

    def _speak(self, parts: Sequence[Part]) -> Counter[str]:
        """Rounds: each asks the voices that are still missing, until there are enough or no more may be tried. Returns the faults."""
        faults: Counter[str] = Counter()
        tried = 0
        while True:
            asked = [(part, voice) for part in parts for _, voice in zip(range(self._missing(part)), part.voices, strict=False)]
            if not asked:
                break
            lines = [Line(part.text, voice, part.draft.spoken_language) for part, voice in asked]
            tried += len(lines)
            for (part, voice), take in zip(asked, self._heard(lines, self._backend.speak(lines, self._limits)), strict=True):
                faults.update(fault.reason for fault in take.faults)
                if take.clip is not None:
                    part.clips[voice.name] = take.clip
                else:
                    part.faults[voice.name] = take.faults[-1]
        if tried >= HOPELESS_LINES and not any(part.clips for part in parts):
            example = next(fault for part in parts for fault in part.faults.values())
            raise RbaError(f"nothing could be spoken, in {tried} tries: {dict(faults)}; for example {example.reason}: {example.detail}")
        return faults

    def _missing(self, part: Part) -> int:
        return self._section.voices_per_group - len(part.clips)

    def _heard(self, lines: Sequence[Line], takes: Sequence[Take]) -> list[Take]:
        """The takes, those without a clip that says something else."""
        if self._listener is None:
            return list(takes)
        return list(self._ears.map(self._listened, lines, takes))

    def _listened(self, line: Line, take: Take) -> Take:
        fault = self._listener.fault(take.clip, line.text, line.language) if self._listener and take.clip else None
        return take if fault is None else Take(None, (*take.faults, fault))

    # --- writing ------------------------------------------------------------------------------------------------

    def _write(self, path: str, drafts: Sequence[Draft], parts: Mapping[str, Part]) -> list[Draft]:
        """The drafts as they leave the stage; their clips lie in the shard `path`, which is there when this returns."""
        with ExitStack() as opened:
            spoken = any(part.clips for part in parts.values())
            shard = opened.enter_context(ShardWriter(self._folder / path)) if spoken else None
            return [self._spoken(parts[draft.id], shard, path) if draft.id in parts else self._kept(draft) for draft in drafts]

    def _spoken(self, part: Part, shard: ShardWriter | None, path: str) -> Draft:
        """The draft with its utterances, or rejected."""
        draft = part.draft
        tags = dict(draft.tags)
        if part.text != draft.instruction:
            tags["spoken"] = part.text
        if part.faults:
            tags["unspoken"] = {name: fault.reason for name, fault in part.faults.items()}
        if shard is None or len(part.clips) < self._section.fewest_voices:
            reasons = ", ".join(f"{name}: {fault.reason} ({fault.detail})" for name, fault in part.faults.items())
            return replace(draft, tags=tags, rejected=f"{self.name}: {self.reasons[0]}", detail=reasons)
        utterances = []
        for name, clip in part.clips.items():
            audio, offset, size_bytes = shard.add(clip.content)
            utterances.append(Spoken(name, audio, clip.duration_s, path, offset, size_bytes))
        return replace(draft, tags=tags, utterances=[*utterances, *self._written()])

    def _spoken_again(self, draft: Draft) -> bool:
        return self._section.revoice and draft.split not in HELD_OUT

    def _kept(self, draft: Draft) -> Draft:
        """A corpus' own recordings, each as often as `copies` says; those that are measured once."""
        copies = 1 if draft.split in HELD_OUT else self._section.copies
        spoken = [each for each in draft.utterances if each.audio for _ in range(copies)]
        written = [each for each in draft.utterances if not each.audio] or self._written()
        return replace(draft, utterances=[*spoken, *written])

    def _written(self) -> list[Spoken]:
        return [Spoken(TEXT_SPEAKER)] if self._section.text_utterance else []
