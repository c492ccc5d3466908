"""The tiny reward model: the teacher, two layers and a scalar head, trained on preferences (Bradley-Terry). Edge: torch, transformers.

The teacher's layers know the right answer; the new ones compare it with the one that was given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from quickstart.training.steps import Schedule, batches, initialise, optimise, pad
from quickstart.training.teacher import text_config
from quickstart.training.tokenizer import build_tokenizer
from quickstart.training.wrong import Mistakes
from quickstart.world import Instruction, members

SCHEDULE = Schedule(steps=1800, peak=1e-3, warmup=40)
BATCH = 64
NEW_LAYERS = 2
Samples = dict[str, list[str]]
"""Answers of the SpeechLM by instruction."""


def chat_ids(tokenizer: Any, instruction: str, answer: str) -> list[int]:
    """The whole chat that is scored: the instruction and its answer."""
    chat = [{"role": "user", "content": instruction}, {"role": "assistant", "content": answer}]
    return list(tokenizer.encode(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False))


def scores(model: nn.Module, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> Tensor:
    """Rewards ``[pair]`` of (instruction, answer)."""
    rows = [chat_ids(tokenizer, instruction, answer) for instruction, answer in pairs]
    ids = pad(rows, tokenizer.pad_token_id)
    mask = pad([[1] * len(row) for row in rows], 0)
    return cast(Tensor, cast(Any, model)(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0])


def train_reward_model(folder: Path, teacher: Path, sampled: Samples, seed: int, tick: Callable[[int, float], None]) -> dict[str, Any]:
    """Train the reward model on train and validation instructions and write it. Returns its figures, on unseen test instructions."""
    from transformers import AutoTokenizer, Qwen2ForCausalLM, Qwen2ForSequenceClassification

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(str(teacher))
    knowing = Qwen2ForCausalLM.from_pretrained(str(teacher)).model
    config = text_config(tokenizer, layers=knowing.config.num_hidden_layers + NEW_LAYERS, num_labels=1)
    model = cast(nn.Module, Qwen2ForSequenceClassification(config).float())
    initialise(model)
    cast(Any, model).model.load_state_dict(knowing.state_dict(), strict=False)
    asked = members("learned") + members("train") + members("validation")
    mistakes, drawn = Mistakes(asked, sampled, seed), batches(asked, BATCH, seed)

    def loss_of(_step: int) -> Tensor:
        group = next(drawn)
        pairs = [mistakes.pair(each) for each in group]
        both = [(each.text, better) for each, (better, _) in zip(group, pairs, strict=True)]
        both += [(each.text, worse) for each, (_, worse) in zip(group, pairs, strict=True)]
        better, worse = scores(model, tokenizer, both).chunk(2)
        return -logsigmoid(better - worse).mean()

    def after(step: int, loss: float) -> bool:
        tick(step, loss)
        return False

    steps = optimise(model, SCHEDULE, loss_of, after)
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer().save_pretrained(folder)
    cast(Any, model).save_pretrained(folder)
    figures = {"seed": seed, "steps": steps, "parameters": sum(each.numel() for each in model.parameters())}
    return figures | pair_accuracy(model, tokenizer, sampled)


@torch.no_grad()
def pair_accuracy(model: nn.Module, tokenizer: Any, sampled: Samples, *, instructions: int | None = None, seed: int = 1) -> dict[str, Any]:
    """How often the right answer to an unseen test instruction beats a wrong one: made-up ones, and the SpeechLM's own."""
    model.eval()
    asked = members("test")[:instructions]
    mistakes = Mistakes(members("test"), {}, seed)
    made_up = [(each, mistakes.wrong(each)) for each in asked for _ in range(4)]
    own = [(each, text) for each in asked for text in sorted(set(sampled.get(each.text, ()))) if text != each.answer]
    figures: dict[str, Any] = {}
    for name, pairs in (("made_up", made_up), ("sampled", own)):
        wins = [float(margin) > 0 for part in _parts(pairs) for margin in _margins(model, tokenizer, part)]
        figures[f"{name}_pairs"] = len(wins)
        figures[f"{name}_accuracy"] = round(sum(wins) / len(wins), 4) if wins else None
    return figures


def _parts(pairs: Sequence[tuple[Instruction, str]], size: int = 256) -> list[Sequence[tuple[Instruction, str]]]:
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def _margins(model: nn.Module, tokenizer: Any, part: Sequence[tuple[Instruction, str]]) -> Tensor:
    right = scores(model, tokenizer, [(each.text, each.answer) for each, _ in part])
    return right - scores(model, tokenizer, [(each.text, text) for each, text in part])
