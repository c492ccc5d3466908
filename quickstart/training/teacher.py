"""The tiny text teacher: Qwen2's classes, trained on every instruction of the world. Edge: torch, transformers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from quickstart.training.steps import Schedule, answer_loss, batches, initialise, optimise, pad
from quickstart.training.tokenizer import build_tokenizer
from quickstart.world import SPLITS, Instruction, instructions, members

SCHEDULE = Schedule(steps=700, peak=3e-3, warmup=40)
BATCH = 96


def text_config(tokenizer: Any, layers: int = 3, **more: Any) -> Any:
    """Qwen2's configuration of the teacher and the reward model (about 0.4 M parameters)."""
    from transformers import Qwen2Config

    return Qwen2Config(
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=3,
        num_key_value_heads=3,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def prompt_ids(tokenizer: Any, instruction: str) -> list[int]:
    """The chat up to where the answer starts."""
    text = tokenizer.apply_chat_template([{"role": "user", "content": instruction}], add_generation_prompt=True, tokenize=False)
    return list(tokenizer.encode(text, add_special_tokens=False))


def train_teacher(folder: Path, seed: int, tick: Callable[[int, float], None]) -> dict[str, Any]:
    """Train the teacher and write it to `folder`. Returns its figures."""
    from transformers import Qwen2ForCausalLM

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = cast(nn.Module, Qwen2ForCausalLM(text_config(tokenizer)).float())
    initialise(model)
    rows = [(prompt_ids(tokenizer, each.text), [*tokenizer.encode(each.answer), tokenizer.eos_token_id]) for each in instructions()]
    drawn = batches(rows, BATCH, seed)

    def loss_of(_step: int) -> torch.Tensor:
        prompts, answers = map(list, zip(*next(drawn), strict=True))
        ids = pad([prompt + answer for prompt, answer in zip(prompts, answers, strict=True)], tokenizer.pad_token_id)
        return answer_loss(cast(Any, model)(input_ids=ids, use_cache=False).logits, prompts, answers)

    def after(step: int, loss: float) -> bool:
        tick(step, loss)
        return False

    steps = optimise(model, SCHEDULE, loss_of, after)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    cast(Any, model).save_pretrained(folder)
    split_accuracy = {split: right_share(model, tokenizer, members(split)) for split in SPLITS}
    return {"seed": seed, "steps": steps, "parameters": sum(each.numel() for each in model.parameters()), "accuracy": split_accuracy}


def right_share(model: nn.Module, tokenizer: Any, asked: Sequence[Instruction]) -> float:
    """Share of the instructions that the model answers right, greedily."""
    texts = written_answers(model, tokenizer, [each.text for each in asked])
    return sum(text == each.answer for each, text in zip(asked, texts, strict=True)) / len(asked)


@torch.no_grad()
def written_answers(model: nn.Module, tokenizer: Any, asked: Sequence[str], batch: int = 256) -> list[str]:
    """Greedy answers to written instructions, in their order."""
    model.eval()
    texts = []
    for start in range(0, len(asked), batch):
        rows = [prompt_ids(tokenizer, text) for text in asked[start : start + batch]]
        longest = max(map(len, rows))
        ids = torch.tensor([[tokenizer.pad_token_id] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        done = cast(Any, model).generate(input_ids=ids, attention_mask=mask, max_new_tokens=24, do_sample=False)
        texts += tokenizer.batch_decode(done[:, longest:], skip_special_tokens=True)
    return texts


def write_references(teacher: Path, target: Path) -> None:
    """Write the teacher's own answers to the training instructions, ``{instruction: answer}``, gzipped without a time stamp."""
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    asked = [each.text for split in ("learned", "train") for each in members(split)]
    texts = written_answers(Qwen2ForCausalLM.from_pretrained(str(teacher)), AutoTokenizer.from_pretrained(str(teacher)), asked)
    table = json.dumps(dict(sorted(zip(asked, texts, strict=True))), indent=0)
    target.write_bytes(gzip.compress(table.encode(), mtime=0))
