"""Cleans what a model writes as a user: the marks of lists and headings before the words, and the answer that it may go on to give."""

from __future__ import annotations

import re

_LABEL = r"(?:question|task|instruction|prompt|scenario|exercise|problem|query|request|example|user)"
_LEADING = re.compile(
    rf"""^\s*(?:
        \#+                                       # a heading
        | [-*•>]\s                                # a list, a quotation
        | \(?\d{{1,3}}[.)]\s                      # a number
        | (?:\*\*|__)?{_LABEL}(?:\s*\d+)?(?:\*\*|__)?\s*:(?:\*\*|__)?
        | (?:\*\*|__)?q\s*\d*(?:\*\*|__)?\s*[.:](?:\*\*|__)?\s
    )\s*""",
    re.IGNORECASE | re.VERBOSE,
)
_ANSWER = re.compile(
    r"""^[\s\#*_>-]*(?:
        (?:(?:the|my)\s+)?(?:(?:correct|final|best|sample|example|model)\s+)?(?:answer|solution|explanation|response|reply)\s*(?:\*\*|__)?\s*:
        | the\s+(?:correct\s+|final\s+)?answer\s+is\b
        | (?:assistant|chatbot|ai)(?:\*\*|__)?\s*:
        | \#\#*\s*step\s+1\b
    )""",
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
_WRAPPED = re.compile(r"""^(?:"([^"]*)"|“([^“”]*)”|'([^']*)'|`([^`]*)`|\*\*([^*]*)\*\*|\*([^*]*)\*)$""", re.DOTALL)
_THOUGHT = re.compile(r"^\s*(?:<think>)?.*?</think>", re.DOTALL)
_REPEATED = re.compile(r"(.{1,64}?)\1{3,}", re.DOTALL)
REPEATED_CHARACTERS = 48
"""So long a run of the same few words, four times or more, is no text that somebody would say."""


def tidied(text: str) -> str:
    """The instruction in `text`; "" where nothing but an answer is there. Tidying it again changes nothing."""
    while True:
        before = text
        if found := _ANSWER.search(text):
            text = text[: found.start()]
        text = _LEADING.sub("", text.strip(), count=1).strip()
        if found := _WRAPPED.match(text):
            text = next(part for part in found.groups() if part is not None).strip()
        if text == before:
            return text


def without_thoughts(text: str) -> str:
    """An answer without the thoughts that a reasoning model writes before it."""
    return _THOUGHT.sub("", text, count=1).strip() if "</think>" in text else text.strip()


def is_repeating(text: str) -> bool:
    """True when some words are said over and over again, one after the other."""
    return any(
        len(found[0]) >= REPEATED_CHARACTERS and any(map(str.isalnum, found[1]))  # a line of dashes is none
        for found in _REPEATED.finditer(text)
    )
