"""The tokenizer of a teacher, and the tokens that end its texts. Edge: transformers."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from actors.synthesis.teacher.teacher import Message
from configs.teaching import LanguageModelSection
from protocol.errors import UserError


class Tokenizer:
    """A chat model's tokenizer with its chat template: the `ChatTokenizer` of the pre-query text."""

    def __init__(self, tokenizer: Any, eos_ids: Sequence[int] = (), options: Mapping[str, Any] | None = None) -> None:
        """`tokenizer` is of transformers; `options` are what its chat template takes beside the messages."""
        self._tokenizer, self._options = tokenizer, dict(options or {})
        self._encoding = threading.Lock()  # a tokenizer whose file asks for truncation changes itself at its first text
        eos = tokenizer.eos_token_id
        self.eos_ids: Sequence[int] = list(dict.fromkeys([*([eos] if eos is not None else []), *eos_ids]))
        self.bos_id: int | None = tokenizer.bos_token_id
        special = set(tokenizer.all_special_ids)
        added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
        # white space may be an added token as well (Gemma's runs of line ends), and marks nothing
        self.marker_ids: Collection[int] = {number for number in {*special, *added} if added.get(number, "-").strip()}

    def render(self, messages: Sequence[Message]) -> str:
        """The chat as text, up to where the assistant's turn starts. Raises what the template raises."""
        chat = [dict(message) for message in messages]
        return cast(str, self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **self._options))

    def encode(self, text: str) -> list[int]:
        """Token ids of exactly this text; special tokens that it spells out are such."""
        with self._encoding:
            return list(self._tokenizer.encode(text, add_special_tokens=False))


def open_tokenizer(section: LanguageModelSection, where: str) -> Tokenizer:
    """The tokenizer of the model at the configuration's key `where`. Raises `UserError`."""
    from transformers import AutoTokenizer, GenerationConfig

    name = section.tokenizer or section.model
    key = f"{where}.tokenizer" if section.tokenizer or section.url else f"{where}.model"
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        fix = "give the folder or Hub name of the model's tokenizer"
        raise UserError(f"no tokenizer {name}: {' '.join(str(error).split())[:200]}", where=key, fix=fix) from error
    try:
        eos = GenerationConfig.from_pretrained(name).eos_token_id
    except OSError:  # many checkpoints have none
        eos = None
    return Tokenizer(tokenizer, [eos] if isinstance(eos, int) else list(eos or ()), section.chat_template_options)
