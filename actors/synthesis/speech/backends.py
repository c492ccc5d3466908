"""Which back end and which voices a configuration means."""

from __future__ import annotations

from importlib.metadata import entry_points

from actors.synthesis.speech.backend import Backend
from actors.synthesis.speech.bank import read_bank
from actors.synthesis.speech.builtin import builtin
from actors.synthesis.speech.espeak_backend import EspeakBackend
from actors.synthesis.speech.samples import Limits
from actors.synthesis.speech.voices import Voice
from configs.speech import SpeechSection
from protocol.errors import UserError

GROUP = "rba.speech"
"""Entry points of this group are called with the section `speech` and return a `Backend`."""
PACE = {"": (3.0, 40.0), "zh": (1.0, 15.0), "ja": (1.0, 15.0), "ko": (1.0, 15.0)}
"""Slowest and fastest plausible speech in letters and digits a second."""


def open_backend(section: SpeechSection) -> Backend:
    """The back end, not started. Raises `UserError` for one that there is not."""
    if section.backend == "espeak":
        return EspeakBackend(section.processes)
    if section.backend == "openai" and section.server is not None:
        from actors.synthesis.speech.openai import OpenAIBackend  # here: httpx is needed by this one alone

        return OpenAIBackend(section.server)
    found = {each.name: each for each in entry_points(group=GROUP)}
    if section.backend not in found:
        known = ", ".join(["espeak", "openai", *sorted(found)])
        raise UserError(f"no speech back end {section.backend!r}", where="speech.backend", fix=f"there are {known}")
    backend = found[section.backend].load()(section)
    if not isinstance(backend, Backend):
        raise UserError(
            f"{found[section.backend].value} gives a {type(backend).__name__}", where="speech.backend", fix="it has to return a Backend"
        )
    return backend


def voices_of(section: SpeechSection) -> list[Voice]:
    """The voices that may speak. Raises `UserError` for a bank that is wrong, or too small."""
    if section.presets:
        voices = [Voice(name=name) for name in dict.fromkeys(section.presets)]
    elif section.bank is not None:
        voices = read_bank(section.bank)
    elif section.backend == "espeak":
        voices = builtin()
    else:
        raise UserError(f"{section.backend} has no voices", where="speech.bank", fix="name a bank, or voices in speech.presets")
    if len(voices) < section.voices_per_group:
        raise UserError(
            f"{len(voices)} voices, and each instruction is to be spoken by {section.voices_per_group} different ones",
            where="speech.presets" if section.presets else f"speech.bank={section.bank}",
            fix="add voices, or lower speech.voices_per_group",
        )
    return voices


def limits_of(section: SpeechSection) -> Limits:
    """What clips have to keep to."""
    return Limits(section.max_audio_s, {**PACE, **section.characters_per_s})
