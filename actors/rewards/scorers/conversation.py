"""Instruction and answer as the token ids of one conversation, and the scoring of many of them in few forward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from actors.rewards.items import RewardItem, RewardScore, unscored
from actors.rewards.scorers.memo import Memo
from protocol.errors import UserError

SENTINEL = "rba-sentinel"
KEPT_BYTES, TOKEN_BYTES = 64 << 20, 40
"""Of conversations whose token ids are kept from the question what an item costs until it is scored."""


class UnscorableError(ValueError):
    """An item cannot be scored; the text becomes its error."""


class Judged(NamedTuple):
    """What a forward pass says about one conversation."""

    score: float
    parts: dict[str, float]


Forward = Callable[[list[list[int]]], list[Judged]]
"""From token ids ``[conversation][token]`` of different lengths to one judgement each."""


class Conversation:
    """Renders (instruction, answer) with the checkpoint's own chat template, in at most `max_tokens` tokens."""

    def __init__(self, tokenizer: Any, max_tokens: int, where: str) -> None:
        """`tokenizer` is a transformers tokenizer. Raises `UserError` when its chat template is missing or drops the answer."""
        if not tokenizer.chat_template:
            raise UserError(
                "the tokenizer has no chat template", where=where, fix="use a reward model that was trained on chats, or add its template"
            )
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.token_ids = Memo(self._token_ids, KEPT_BYTES, lambda ids: TOKEN_BYTES * len(ids))
        added = tokenizer.added_tokens_decoder.values()
        self._special = sorted({*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}, key=len, reverse=True)
        rendered = self._render("instruction", SENTINEL)
        if rendered.count(SENTINEL) != 1:
            raise UserError("the chat template drops or repeats the assistant's turn", where=where, fix="use a checkpoint for chats")
        self._tail_ids = self._encode(rendered[rendered.index(SENTINEL) + len(SENTINEL) :])
        self._before, _, self._after = self.rendered(SENTINEL, "answer")[0].partition(SENTINEL)

    def cost(self, item: RewardItem) -> int:
        """Tokens of the item's conversation; 1 where it cannot be scored."""
        try:
            return len(self.token_ids(item.instruction, item.answer))
        except UnscorableError:
            return 1

    def _token_ids(self, instruction: str, answer: str) -> tuple[int, ...]:
        """Token ids ``[token]``, special tokens of the template included, none from the texts.

        A conversation that is too long loses the end of its *answer*; the instruction and the template's turns stay whole.
        Raises `UnscorableError` when not one token of the answer would be left.
        """
        instruction, answer = self.escape(instruction), self.escape(answer)
        ids = self._encode(self._render(instruction, answer))
        if len(ids) <= self.max_tokens:
            return tuple(ids)
        tail = len(self._tail_ids)
        if ids[len(ids) - tail :] != self._tail_ids:
            raise UnscorableError("template: the chat template ends differently for this answer, so it cannot be shortened")
        rendered = self._render(instruction, SENTINEL)
        head = len(self._encode(rendered[: rendered.rindex(SENTINEL)]))
        if head + 1 + tail > self.max_tokens:
            raise UnscorableError(f"too_long: the instruction alone takes {head + tail} of {self.max_tokens} tokens")
        return (*ids[: self.max_tokens - tail], *self._tail_ids)

    def rendered(self, instruction: str, answer: str) -> tuple[str, str]:
        """The conversation as text, not shortened: what stands before the answer, and all of it."""
        instruction, answer = self.escape(instruction), self.escape(answer)
        template = self._render(instruction, SENTINEL)
        return template[: template.rindex(SENTINEL)], self._render(instruction, answer)

    def instruction_of(self, prompt: str) -> str:
        """The instruction within a prompt that this template has rendered; any other prompt as it is."""
        inside = prompt.removeprefix(self._before).removesuffix(self._after)
        return inside if len(prompt) - len(inside) == len(self._before) + len(self._after) else prompt

    def escape(self, text: str) -> str:
        """`text` with every special token broken by a space, so that it reads as text and ends no turn."""
        for token in self._special:
            if len(token) > 1:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _render(self, instruction: str, answer: str) -> str:
        turns = [{"role": "user", "content": instruction}, {"role": "assistant", "content": answer}]
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False))

    def _encode(self, text: str) -> list[int]:
        """The template writes its own special tokens, so the tokenizer adds none."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def forward_batches(lengths: Sequence[int], max_items: int, max_tokens: int) -> Iterator[list[int]]:
    """Indices into `lengths`, longest first, in batches of at most `max_items` and, padded, `max_tokens` (but at least one item)."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    start = 0
    while start < len(order):
        size = max(1, min(max_items, max_tokens // max(1, lengths[order[start]])))
        yield order[start : start + size]
        start += size


def score_conversations(
    items: Sequence[RewardItem], conversation: Conversation, forward: Forward, max_items: int, max_tokens: int
) -> list[RewardScore]:
    """Scores by `forward`, in batches of about equal length; equal conversations (voices often get equal answers) are judged once."""
    outcomes: dict[int, RewardScore] = {}
    asking: dict[tuple[int, ...], list[int]] = {}
    for index, item in enumerate(items):
        try:
            asking.setdefault(conversation.token_ids(item.instruction, item.answer), []).append(index)
        except UnscorableError as error:
            outcomes[index] = unscored(item.id, str(error))
    distinct = list(asking)
    for batch in forward_batches([len(ids) for ids in distinct], max_items, max_tokens):
        for position, judged in zip(batch, forward([list(distinct[position]) for position in batch]), strict=True):
            for index in asking[distinct[position]]:
                outcomes[index] = RewardScore(items[index].id, judged.score, judged.parts)
    return [outcomes[index] for index in range(len(items))]
