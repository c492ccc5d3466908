"""The text that a chat template puts before a user's words: a model that goes on from it writes an instruction (Magpie, 2406.08464).

It is read off the template, so that any chat model will do: what stands before a word that is put in the user's place is the pre-query
text, and what stands after it ends the user's turn.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.synthesis.teacher.teacher import Message
from protocol.errors import UserError

SENTINEL = "Qzvx Jwk-7"
"""Stands in the user's place: what a template may do to text (change its case, drop its spaces or signs) is seen in it."""
OVERRIDE = "write the text before the user's words yourself, as instructions.pre_query"


class ChatTokenizer(Protocol):
    """What is asked of a tokenizer."""

    eos_ids: Sequence[int]
    """Tokens that end a text, by the tokenizer and by the checkpoint's generation settings."""
    bos_id: int | None
    marker_ids: Collection[int]
    """Tokens that stand for no text: special ones, and those that were added as the marks of turns."""

    def render(self, messages: Sequence[Message]) -> str:
        """The chat as text, up to where the assistant's turn starts."""

    def encode(self, text: str) -> list[int]:
        """Token ids of exactly this text."""


@dataclass(frozen=True, slots=True)
class PreQuery:
    """How a model is made to write a user's turn."""

    text: str
    token_ids: tuple[int, ...]
    stop_token_ids: tuple[int, ...]
    """Tokens that end the turn, or that belong to a turn's frame and so never into one."""
    stop: tuple[str, ...] = ()
    """Texts that end the turn, where no token of its own does."""


def pre_query(tokenizer: ChatTokenizer, *, system: str | None = None, text: str | None = None, where: str = "teacher") -> PreQuery:
    """The pre-query text of a model's chat template, with `system` in it, or `text` in its place.

    Raises `UserError` when the template does not show a user's words as they are, or refuses the chat.
    """
    before, after = _around_the_user(tokenizer, system, where) if text is None else (text, _after(tokenizer))
    ids = _opening(tokenizer, before)
    if text is not None and (bos := _first_bos(tokenizer)) is not None and ids[:1] != [bos]:
        ids = [bos, *ids]
    if tokenizer.bos_id is not None and ids[:2] == [tokenizer.bos_id] * 2:
        raise UserError(f"{before!r} starts twice", where="instructions.pre_query", fix="take one beginning-of-text token out")
    frame = [*tokenizer.encode(after.lstrip()), *ids]
    marks = [token for token in frame if token in tokenizer.marker_ids]
    marked = bool(after.strip()) and frame[0] in tokenizer.marker_ids
    stop = () if marked or not after.strip() else (after.strip().splitlines()[0].strip(),)
    stop_ids = tuple(dict.fromkeys([*marks, *tokenizer.eos_ids]))
    if not stop_ids and not stop:
        raise UserError("nothing in the chat template ends a user's turn", where=where, fix="use a checkpoint with an end-of-text token")
    return PreQuery(before, tuple(ids), stop_ids, stop)


def _around_the_user(tokenizer: ChatTokenizer, system: str | None, where: str) -> tuple[str, str]:
    """The text before and after the user's words."""
    messages = [{"role": "user", "content": SENTINEL}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    try:
        chat = tokenizer.render(messages)
    except Exception as error:  # a template may raise anything, and transformers do where there is none
        asked = "a system prompt and a user's turn" if system is not None else "a single user's turn"
        fix = OVERRIDE if system is None else f"leave instructions.system out, or {OVERRIDE}"
        raise UserError(f"the chat template refuses {asked}: {' '.join(str(error).split())[:200]}", where=where, fix=fix) from error
    if chat.count(SENTINEL) != 1:
        how = f"shows a user's words {chat.count(SENTINEL)} times" if SENTINEL in chat else "does not show a user's words as they are"
        raise UserError(f"the chat template {how}", where=where, fix=OVERRIDE)
    before, after = chat.split(SENTINEL)
    return before, after


def _after(tokenizer: ChatTokenizer) -> str:
    """What ends a user's turn; "" where the template cannot tell."""
    try:
        return _around_the_user(tokenizer, None, "")[1]
    except UserError:
        return ""


def _first_bos(tokenizer: ChatTokenizer) -> int | None:
    """The beginning-of-text token, when the template starts with it."""
    try:
        first = tokenizer.encode(_around_the_user(tokenizer, None, "")[0])[:1]
    except UserError:
        return None
    return tokenizer.bos_id if first == [tokenizer.bos_id] else None


def _opening(tokenizer: ChatTokenizer, before: str) -> list[int]:
    """Token ids of the pre-query text, as they are when words follow.

    A space at its end is often one token with the word that follows: alone, it would be a beginning that the model has never seen, so
    it is left to the model to write.
    """
    ids, whole = tokenizer.encode(before), tokenizer.encode(before + SENTINEL)
    if whole[: len(ids)] != ids:
        shorter = tokenizer.encode(before.rstrip(" "))
        if whole[: len(shorter)] == shorter:
            return shorter
    return ids
