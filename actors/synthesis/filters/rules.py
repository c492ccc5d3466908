"""Why an instruction and its reference go no further, text by text: each rule with a reason of its own. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from actors.synthesis.filters import completeness, length, notation
from actors.synthesis.filters.characters import Characters
from actors.synthesis.records import Draft
from configs.selection import FilterSection
from protocol.errors import UserError


@dataclass(frozen=True)
class Rule:
    """One reason to reject a draft."""

    reason: str
    finds: Callable[[Draft], str]
    """What the reason is about; "" where the rule has nothing against the draft."""


REASONS = (
    "empty", "too short", "too long", "code", "markup", "address", "blank", "mathematics", "unspeakable", "word", "truncated", "repeating",
    "language", "reference too short", "reference too long", "reference truncated", "reference repeating", "refusal",
)  # fmt: skip
"""Of all rules, in the order in which they are asked."""


def rules(section: FilterSection) -> list[Rule]:
    """The rules that a recipe asks for, in the order of `REASONS`. Raises `UserError` for a pattern that is none."""
    wanted = [
        Rule("empty", lambda draft: "" if draft.instruction.strip() else "no instruction"),
        Rule("too short", partial(_too_short, section.min_words)),
        Rule("too long", partial(_too_long, section.max_words, section.max_spoken_s * section.speaking_rate)),
    ]
    if section.code:
        wanted.append(Rule("code", lambda draft: notation.code(draft.instruction)))
    if section.markup:
        wanted.append(Rule("markup", lambda draft: notation.markup(draft.instruction)))
    if section.addresses:
        wanted.append(Rule("address", lambda draft: notation.address(draft.instruction)))
    if section.blanks:
        wanted.append(Rule("blank", lambda draft: completeness.blank(draft.instruction)))
    if section.mathematics:
        wanted.append(Rule("mathematics", lambda draft: notation.mathematics(draft.instruction, section.max_operators)))
    if section.characters:
        wanted.append(Rule("unspeakable", _Unspeakable(section)))
    if section.words:
        banned = _pattern("|".join(rf"\b{re.escape(word)}\b" for word in section.words), "filter.words")
        wanted.append(Rule("word", lambda draft: _found(banned, draft.instruction)))
    if section.truncated:
        wanted.append(Rule("truncated", lambda draft: completeness.truncated(draft.instruction)))
    if section.repeating:
        wanted.append(Rule("repeating", lambda draft: completeness.repeating(draft.instruction)))
    if section.language_confidence is not None:
        from actors.synthesis.filters.languages import OtherLanguage

        wanted.append(Rule("language", OtherLanguage(section.language_confidence)))
    return wanted + _of_references(section)


def judge(draft: Draft, wanted: list[Rule]) -> tuple[str, str]:
    """The first rule's reason and what it is about; two empty strings where none has anything against the draft."""
    for rule in wanted:
        if detail := rule.finds(draft):
            return rule.reason, detail
    return "", ""


def _of_references(section: FilterSection) -> list[Rule]:
    wanted = [Rule("reference too short", partial(_reference_too_short, section.min_reference_words))]
    if section.max_reference_words is not None:
        wanted.append(Rule("reference too long", partial(_reference_too_long, section.max_reference_words)))
    if section.truncated:
        wanted.append(Rule("reference truncated", lambda draft: completeness.truncated(draft.reference)))
    if section.repeating:
        wanted.append(Rule("reference repeating", lambda draft: completeness.repeating(draft.reference)))
    if section.refusals:
        told = completeness.REFUSALS if isinstance(section.refusals, bool) else section.refusals
        patterns = [_pattern(each, "filter.refusals") for each in told]
        wanted.append(Rule("refusal", lambda draft: completeness.refusal(draft.reference, patterns)))
    return wanted


class _Unspeakable:
    """The draft's first character that cannot be spoken in its language."""

    def __init__(self, section: FilterSection) -> None:
        self._section = section
        self._languages: dict[str, Characters] = {}

    def __call__(self, draft: Draft) -> str:
        language = draft.spoken_language
        if language not in self._languages:
            self._languages[language] = Characters(language, self._section.scripts, self._section.also_characters)
        return self._languages[language].unspeakable(draft.instruction)


def _too_short(least: int, draft: Draft) -> str:
    words = length.words(draft.instruction)
    return f"{words} words" if words < least else ""


def _too_long(most: int, most_s: float, draft: Draft) -> str:
    words = length.words(draft.instruction)
    if words > most:
        return f"{words} words"
    seconds = length.spoken_s(draft.instruction)
    return f"{seconds:.0f} s at normal speed" if seconds > most_s else ""


def _reference_too_short(least: int, draft: Draft) -> str:
    words = length.words(draft.reference)
    return f"{words} words" if words < least else ""


def _reference_too_long(most: int, draft: Draft) -> str:
    words = length.words(draft.reference)
    return f"{words} words" if words > most else ""


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found.group() if found else ""


def _pattern(text: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise UserError(f"{text!r} is no regular expression: {error}", where=where, fix="write it in the syntax of Python's re") from None
