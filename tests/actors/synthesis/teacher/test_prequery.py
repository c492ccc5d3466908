"""The pre-query text is what the template writes, and a user's turn ends where the template ends it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.synthesis.teacher.prequery import pre_query
from actors.synthesis.teacher.tokenizer import Tokenizer
from protocol.errors import UserError
from tests.actors.synthesis.teacher.families import CHATML, CHATML_TOKENS, FAMILIES, PHI_3, Family, byte_tokenizer

BY_NAME = {family.name: family for family in FAMILIES}
LIKE_MAGPIE = {"Llama 3", "Qwen 2", "Qwen 2.5"}


def named(tokenizer: Tokenizer, ids: object) -> list[str]:
    return tokenizer._tokenizer.convert_ids_to_tokens(list(ids))  # type: ignore[call-overload]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_text_is_the_templates(family: Family) -> None:
    tokenizer = family.tokenizer()
    found = pre_query(tokenizer)
    assert found.text == family.text
    assert tokenizer._tokenizer.decode(found.token_ids) == family.text.rstrip(" ")
    assert set(family.ends) <= set(named(tokenizer, found.stop_token_ids))
    assert set(named(tokenizer, found.stop_token_ids)) <= set(family.tokens)
    assert found.stop == family.stop


@pytest.mark.parametrize("family", [each for each in FAMILIES if each.magpie], ids=lambda family: family.name)
def test_beside_magpies_table(family: Family) -> None:
    assert family.magpie is not None
    assert (family.text == family.magpie) == (family.name in LIKE_MAGPIE)
    # Magpie's own text is taken as it is, and starts once
    found = pre_query(family.tokenizer(), text=family.magpie)
    assert found.text == family.magpie
    assert named(family.tokenizer(), found.token_ids).count(family.bos or "-") == bool(family.bos)
    assert set(found.stop_token_ids) >= set(pre_query(family.tokenizer()).stop_token_ids)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_tokens_are_those_that_an_instruction_follows(family: Family) -> None:
    tokenizer = family.tokenizer()
    ids = list(pre_query(tokenizer).token_ids)
    chat = tokenizer.encode(tokenizer.render([{"role": "user", "content": "What is red?"}]))
    assert chat[: len(ids)] == ids
    assert ids[:2] != [tokenizer.bos_id] * 2


def test_a_text_of_ones_own_starts_as_the_template_does() -> None:
    tokenizer = BY_NAME["Llama 3"].tokenizer()
    with_start = pre_query(tokenizer, text=BY_NAME["Llama 3"].text)
    without = pre_query(tokenizer, text=BY_NAME["Llama 3"].text.removeprefix("<|begin_of_text|>"))
    assert with_start.token_ids == without.token_ids
    with pytest.raises(UserError, match="starts twice"):
        pre_query(tokenizer, text="<|begin_of_text|>" + BY_NAME["Llama 3"].text)


def test_a_system_prompt_stands_before_the_users_turn() -> None:
    found = pre_query(BY_NAME["Qwen 2.5"].tokenizer(), system="Speak of the sea.")
    assert found.text == "<|im_start|>system\nSpeak of the sea.<|im_end|>\n<|im_start|>user\n"
    assert pre_query(BY_NAME["Gemma 3"].tokenizer(), system="Be brief.").text == "<bos><start_of_turn>user\nBe brief.\n\n"
    for name in ("Gemma 2", "Mistral 0.3"):
        with pytest.raises(UserError, match=r"refuses a system prompt.*instructions\.system"):
            pre_query(BY_NAME[name].tokenizer(), system="Be brief.")


def test_options_reach_the_template() -> None:
    assert "Today Date: 1 May 2026" in pre_query(BY_NAME["Llama 3.1"].tokenizer({"date_string": "1 May 2026"})).text
    tokenizer = BY_NAME["Qwen 3"].tokenizer({"enable_thinking": False})
    assert tokenizer.render([{"role": "user", "content": "Hi"}]).endswith("<think>\n\n</think>\n\n")
    assert pre_query(tokenizer).text == "<|im_start|>user\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (CHATML.replace("m.content", "m.content | lower"), "does not show"),
        (CHATML.replace("m.content", "m.content | replace(' ', '')"), "does not show"),
        (CHATML.replace("m.content", "m.content[:6]"), "does not show"),
        (CHATML.replace("m.content", "''"), "does not show"),
        (CHATML.replace("{{ m.content }}", "{{ m.content }} {{ m.content }}"), "2 times"),
        ("{{ raise_exception('tools are needed') }}", "refuses a single user's turn: tools are needed"),
        ("{{ missing.part }}" + CHATML, "refuses a single user's turn"),
        (None, "refuses a single user's turn"),
    ],
)
def test_a_template_that_cannot_be_read_is_refused(template: str | None, message: str) -> None:
    tokenizer = Tokenizer(byte_tokenizer(CHATML_TOKENS, template, eos_token="<|im_end|>"))
    with pytest.raises(UserError, match=message) as caught:
        pre_query(tokenizer)
    assert "instructions.pre_query" in str(caught.value)
    # the text of one's own needs no template
    assert pre_query(tokenizer, text="User: ").stop_token_ids


def test_words_end_a_turn_where_no_token_does() -> None:
    template = "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}ASSISTANT: "
    found = pre_query(Tokenizer(byte_tokenizer(("</s>",), template, eos_token="</s>")))
    assert found.text == "USER: "
    assert found.stop == ("ASSISTANT:",)
    bare = Tokenizer(byte_tokenizer((), "{{ messages[0].content }}"))
    with pytest.raises(UserError, match="nothing in the chat template ends"):
        pre_query(bare)


def test_white_space_among_the_added_tokens_marks_nothing() -> None:
    built = byte_tokenizer(("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"), PHI_3, eos_token="<|endoftext|>")
    built.add_tokens(["\n", "\n\n"])
    tokenizer = Tokenizer(built)
    assert set(named(tokenizer, pre_query(tokenizer).stop_token_ids)) == {"<|end|>", "<|assistant|>", "<|user|>", "<|endoftext|>"}


@dataclass
class Plain:
    """A `ChatTokenizer` of one token a character."""

    before: str
    after: str
    eos_ids: list[int] = field(default_factory=lambda: [0])
    bos_id: int | None = None
    marker_ids: frozenset[int] = frozenset()

    def render(self, messages: object) -> str:
        return self.before + messages[-1]["content"] + self.after  # type: ignore[index]

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_frame_is_split_where_the_words_stand(before: str, after: str) -> None:
    found = pre_query(Plain(before, after))
    assert found.text == before
    assert found.token_ids == tuple(map(ord, before))
    assert all(stop and stop in after for stop in found.stop)
    assert bool(found.stop) == bool(after.strip())
