"""Chat templates of well-known models, rewritten from their published behaviour, with small tokenizers that have their special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers import Tokenizer as Rust
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from actors.synthesis.teacher.tokenizer import Tokenizer

LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA_3_1 = (
    "{{ bos_token }}{% set date = date_string if date_string is defined else '26 Jul 2024' %}"
    "{% if messages[0].role == 'system' %}{% set sys = messages[0].content | trim %}{% set messages = messages[1:] %}"
    "{% else %}{% set sys = '' %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: {{ date }}\n\n{{ sys }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_2_5_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
QWEN_2_5 = "{% if messages[0].role != 'system' %}<|im_start|>system\n" + QWEN_2_5_SYSTEM + "<|im_end|>\n{% endif %}" + CHATML
QWEN_3 = CHATML.removesuffix("{% endif %}") + (
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
GEMMA_3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}"
    "{% else %}{% set first = '' %}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ first if loop.first else '' }}"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
PHI_4 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA_TOKENS = ("<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
GEMMA_TOKENS = ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
PHI_TOKENS = ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")


@dataclass(frozen=True)
class Family:
    """One line of Magpie's table, where it has one."""

    name: str
    template: str
    tokens: Sequence[str]
    """Special tokens."""
    eos: str
    bos: str | None
    text: str
    """The pre-query text that the template gives."""
    magpie: str | None
    """Magpie's (`configs/model_configs.json`); None where it has none."""
    ends: Sequence[str]
    """Tokens that must stop a sample."""
    stop: tuple[str, ...] = ()
    generation_eos: Sequence[str] = ()
    """What the checkpoint's generation settings add."""

    def tokenizer(self, options: dict[str, Any] | None = None, template: str | None = None) -> Tokenizer:
        """A tokenizer of single bytes, and of a space before a letter."""
        built = byte_tokenizer(self.tokens, template or self.template, eos_token=self.eos, bos_token=self.bos)
        return Tokenizer(built, [built.convert_tokens_to_ids(token) for token in self.generation_eos], options)


def byte_tokenizer(specials: Sequence[str], template: str | None, **named: str | None) -> Any:
    """A tokenizer of transformers."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", letter) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"]
    vocabulary = {piece: number for number, piece in enumerate([*letters, *("".join(pair) for pair in merges)])}
    rust = Rust(BPE(vocab=vocabulary, merges=merges))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens([AddedToken(token, special=True) for token in specials])
    built = PreTrainedTokenizerFast(tokenizer_object=rust, **{key: value for key, value in named.items() if value is not None})
    built.chat_template = template
    return built


_HEADER = "<|start_header_id|>user<|end_header_id|>\n\n"
_SYSTEM = "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
FAMILIES = (
    Family(
        "Llama 3", LLAMA_3, ("<|begin_of_text|>", *LLAMA_TOKENS), "<|end_of_text|>", "<|begin_of_text|>",
        "<|begin_of_text|>" + _HEADER, "<|begin_of_text|>" + _HEADER,
        ("<|eot_id|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    ),
    Family(
        "Llama 3.1", LLAMA_3_1, ("<|begin_of_text|>", *LLAMA_TOKENS, "<|eom_id|>"), "<|eot_id|>", "<|begin_of_text|>",
        # its template always has a system turn with two dates, which Magpie's text leaves out
        "<|begin_of_text|>" + _SYSTEM + _HEADER, "<|begin_of_text|>" + _HEADER,
        ("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "<|start_header_id|>"),
        generation_eos=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    Family(
        "Qwen 2", CHATML, CHATML_TOKENS, "<|im_end|>", None, "<|im_start|>user\n", "<|im_start|>user\n",
        ("<|im_start|>", "<|im_end|>", "<|endoftext|>"), generation_eos=("<|im_end|>", "<|endoftext|>"),
    ),
    Family(
        "Qwen 2.5", QWEN_2_5, CHATML_TOKENS, "<|im_end|>", None,
        f"<|im_start|>system\n{QWEN_2_5_SYSTEM}<|im_end|>\n<|im_start|>user\n",
        f"<|im_start|>system\n{QWEN_2_5_SYSTEM}<|im_end|>\n<|im_start|>user\n",
        ("<|im_start|>", "<|im_end|>", "<|endoftext|>"), generation_eos=("<|im_end|>", "<|endoftext|>"),
    ),
    Family("Qwen 3", QWEN_3, CHATML_TOKENS, "<|im_end|>", None, "<|im_start|>user\n", None, ("<|im_start|>", "<|im_end|>")),
    Family(
        "Gemma 2", GEMMA_2, GEMMA_TOKENS, "<eos>", "<bos>",
        # Magpie's has two line ends, the model's own template one
        "<bos><start_of_turn>user\n", "<bos><start_of_turn>user\n\n", ("<eos>", "<bos>", "<end_of_turn>", "<start_of_turn>"),
    ),
    Family("Gemma 3", GEMMA_3, GEMMA_TOKENS, "<eos>", "<bos>", "<bos><start_of_turn>user\n", None, ("<eos>", "<end_of_turn>")),
    Family(
        "Phi 3", PHI_3, PHI_TOKENS, "<|endoftext|>", "<s>",
        # Magpie's has the <s> of an earlier template
        "<|user|>\n", "<s> <|user|>\n", ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"),
    ),
    Family(
        "Phi 4", PHI_4, (*CHATML_TOKENS, "<|im_sep|>"), "<|im_end|>", "<|endoftext|>", "<|im_start|>user<|im_sep|>", None,
        ("<|im_start|>", "<|im_end|>", "<|im_sep|>"),
    ),
    Family(
        "Mistral 0.3", MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>", "<s>",
        # Magpie's has a space between the two tokens
        "<s>[INST] ", "<s> [INST] ", ("<s>", "</s>", "[INST]", "[/INST]"),
    ),
    Family("Mistral 0.1", MISTRAL, ("<s>", "</s>"), "</s>", "<s>", "<s>[INST] ", None, ("</s>",), stop=("[/INST]",)),
)  # fmt: skip
