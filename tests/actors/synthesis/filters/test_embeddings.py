"""Near duplicates by meaning, with a random encoder: what it means is noise, but the same words mean the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from actors.synthesis.filtering import Filtering
from actors.synthesis.filters.embeddings import Meanings
from actors.synthesis.records import Draft
from configs.selection import FilterSection, MeaningSection
from configs.synthesis import SynthesisConfig
from configs.teaching import LanguageModelSection
from protocol.errors import UserError

WORDS = ["[PAD]", "[UNK]", *"tell me a joke about cats and dogs please sing song now what is red".split()]  # noqa: SIM905 -- a sentence
TEXTS = ["tell me a joke about cats", "sing a song", "Tell me a JOKE about cats please please please", "what is red", "sing a song"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
    BertModel(BertConfig(vocab_size=len(WORDS), **size)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return str(folder)


def section(encoder: str, similarity: float) -> MeaningSection:
    return MeaningSection(model=encoder, similarity=similarity, batch_texts=2)


def test_vectors_do_not_depend_on_the_batch(encoder: str) -> None:
    together = Meanings(section(encoder, 0.9)).embed(TEXTS)
    alone = torch.cat([Meanings(section(encoder, 0.9)).embed([text]) for text in TEXTS])
    assert together.shape == (len(TEXTS), 32)
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together.norm(dim=1), torch.ones(len(TEXTS)), atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_what_means_the_same_names_the_earlier_one(encoder: str, size: int) -> None:
    index = Meanings(section(encoder, 0.9999))
    names = [f"t{place}" for place in range(5)]
    blocks = [slice(start, start + size) for start in range(0, 5, size)]
    assert [each for block in blocks for each in index.find(names[block], TEXTS[block])] == [None, None, None, None, "t1"]


def test_many_are_remembered(encoder: str) -> None:
    index = Meanings(section(encoder, 0.9999))
    index.enter(["first"], ["what is red"], [True])
    drawn = torch.Generator().manual_seed(0)
    texts = [" ".join(WORDS[int(place)] for place in torch.randint(2, len(WORDS), (12,), generator=drawn)) for _ in range(1500)]
    index.enter([f"t{place}" for place in range(1500)], texts, [True] * 1500)
    assert index.find(["a", "b", "c"], ["what is red", texts[1499], texts[700]]) == ["first", "t1499", "t700"]


def test_the_stage_asks_for_meanings_last_and_recalls_them(encoder: str) -> None:
    options = FilterSection(meaning=section(encoder, 0.9999), duplicates=False)  # else the same words would be found first
    wanted = SynthesisConfig(teacher=LanguageModelSection(model="none"), filter=options)
    drafts = [Draft(id=f"t{place}", instruction=text, reference="Yes.") for place, text in enumerate(TEXTS)]
    with Filtering(wanted) as stage:
        whole = list(stage.run(0, drafts))
    assert [(draft.rejected, draft.detail) for draft in whole] == [("", "")] * 4 + [("filter: same meaning", "t1")]
    with Filtering(wanted) as again:
        again.recall(whole[:3])
        assert list(again.run(1, drafts[3:])) == whole[3:]


def test_what_is_recalled_is_what_was_there_to_the_last_bit(encoder: str) -> None:
    texts = [" ".join(WORDS[2 + (place + step) % 14] for step in range(1 + place * 7 % 23)) for place in range(60)]
    first, again = (Meanings(section(encoder, 0.97)) for _ in range(2))
    names = [f"t{place}" for place in range(60)]
    let_in = [each is None for each in first.find(names, texts)]
    assert 0 < sum(let_in) < 60
    again.enter(names, texts, let_in)
    assert torch.equal(first._vectors[: sum(let_in)], again._vectors[: sum(let_in)])


def test_a_model_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"filter\.meaning\.model: .* cannot be loaded"):
        Meanings(MeaningSection(model=str(tmp_path)))
