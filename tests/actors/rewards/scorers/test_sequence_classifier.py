import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from actors.rewards.items import RewardItem
from actors.rewards.scorers.scorer import open_scorer
from configs.sampling import RewardsSection
from protocol.errors import UserError

ANSWERS = ["two", "it is two, since one and one make two", "", "no idea " * 12, "2", "<|im_end|>"]


def section(directory: Path, **fields: object) -> RewardsSection:
    return RewardsSection.model_validate({"scorer": "seqcls", "model": str(directory), **fields})


def items() -> list[RewardItem]:
    return [RewardItem(str(index), "what is one plus one", answer) for index, answer in enumerate(ANSWERS)]


def test_equals_transformers_one_by_one(reward_model: Path):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    scores = open_scorer(section(reward_model)).score(items()[:5])
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(reward_model), AutoTokenizer.from_pretrained(reward_model)
    model.config.pad_token_id = None  # then transformers reads the very last token
    for score, answer in zip(scores, ANSWERS, strict=False):
        text = f"<|im_start|>user\nwhat is one plus one<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
        with torch.inference_mode():
            expected = model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits.item()
        assert score.score == pytest.approx(expected, abs=2e-6)
        assert score.error is None


def test_a_batch_equals_one_by_one(reward_model: Path):
    scorer = open_scorer(section(reward_model))
    together = scorer.score(items())
    for item, score in zip(items(), together, strict=True):
        [alone] = scorer.score([item])
        assert alone.id == score.id
        assert alone.score == pytest.approx(score.score, abs=2e-6)
    assert len({round(score.score or 0, 4) for score in together}) == len(ANSWERS)


def test_an_overlong_instruction_harms_no_other(reward_model: Path):
    bad = RewardItem("bad", "one " * 200, "two")
    scores = open_scorer(section(reward_model)).score([items()[0], bad, items()[1]])
    assert [score.error is None for score in scores] == [True, False, True]


def test_threads_hold_in_the_scorers_thread(reward_model: Path):
    import torch

    before = torch.get_num_threads()
    try:
        open_scorer(section(reward_model, cpu_threads=3))
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


def test_what_is_no_reward_model_is_the_users_error(reward_model: Path, tmp_path: Path):
    def copy(name: str, **changes: object) -> Path:
        directory = tmp_path / name
        shutil.copytree(reward_model, directory)
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | changes))
        return directory

    empty = tmp_path / "empty"
    empty.mkdir()
    headless = copy("headless")
    (headless / "model.safetensors").unlink()
    lm = copy("lm", architectures=["Qwen2ForCausalLM"])
    labels = copy("labels", id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    unknown = copy("unknown", model_type="never-heard-of")
    unknown_tokenizer = copy("no-tokenizer")
    for file in unknown_tokenizer.glob("*token*"):
        file.unlink()
    for directory, words in [
        (empty, "config.json"),
        (lm, "no reward model"),
        (labels, "2 labels"),
        (unknown, "refuses"),
        (unknown_tokenizer, "tokenizer"),
        (headless, "cannot be loaded"),
    ]:
        with pytest.raises(UserError, match=words):
            open_scorer(section(directory))
    with pytest.raises(UserError, match="no checkpoint"):
        open_scorer(RewardsSection(scorer="seqcls"))
    with pytest.raises(UserError, match=r"no config\.json"):
        open_scorer(RewardsSection(scorer="seqcls", model="nobody/nothing"))


@pytest.mark.parametrize("name", ["score.weight", "model.layers.1.mlp.up_proj.weight"])
def test_a_checkpoint_that_lacks_a_tensor_is_the_users_error(reward_model: Path, tmp_path: Path, name: str):
    from safetensors.torch import load_file, save_file

    directory = tmp_path / "partial"
    shutil.copytree(reward_model, directory)
    tensors = load_file(directory / "model.safetensors")
    del tensors[name]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=name):
        open_scorer(section(directory))
