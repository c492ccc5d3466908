"""The tiny text teacher: it writes instructions of the world, answers them, translates them, and tags them. Edge: torch, transformers."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from quickstart.grammar import beyond, held_out, understand
from quickstart.tasks import TASKS, Task, asked, wanted
from quickstart.training.steps import Schedule, answer_loss, batches, initialise, optimise, pad
from quickstart.training.tokenizer import build_tokenizer
from quickstart.world import SPLITS, Instruction, instructions, members

Rows = dict[Task, tuple[int, int]]
"""Of each batch, by task: instructions of the world, and of the open forms beyond it."""
LEARNING = Schedule(steps=2000, peak=3e-3, warmup=40), Rows({"answer": (32, 6), "s2tt": (14, 7), "qa": (7, 2), "tags": (2, 1)})
POLISHING = Schedule(steps=200, peak=1e-3, warmup=20, floor=0.0), Rows({"answer": (72, 6), "s2tt": (14, 6), "qa": (10, 2), "tags": (6, 3)})
"""More of the answers, until they are right."""
WEIGHTS: dict[Task, float] = {"answer": 0.5, "s2tt": 0.3, "qa": 0.15, "tags": 0.05}
BEYOND = 6000
WRITING_WEIGHT = 0.3
LONGEST = 64
"""Tokens of the longest answer, a tag."""


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


@dataclass(frozen=True)
class Lesson:
    """One chat in three parts that follow one another: what is given, the user's turn where it is learned too, and the answer."""

    given: list[int]
    turn: list[int]
    answer: list[int]


def lessons(tokenizer: Any, task: Task, taught: Sequence[Instruction], unwritten: set[str]) -> list[Lesson]:
    """Chats of one task. The user's turn is learned of plain instructions only, and of none in `unwritten`."""
    before = prompt_ids(tokenizer, "").index(tokenizer.eos_token_id)
    rows = []
    for each in taught:
        chat, answer = prompt_ids(tokenizer, asked(task, each.text)), [*tokenizer.encode(wanted(task, each)), tokenizer.eos_token_id]
        given = len(chat) if task != "answer" or each.text in unwritten else before
        rows.append(Lesson(chat[:given], chat[given:], answer))
    return rows


def _curriculum(tokenizer: Any, counts: Rows, seed: int) -> Iterator[dict[Task, list[Lesson]]]:
    """Batches without end, by task: instructions of the world and of the open forms beyond it.

    The held-out instructions are answered, so that the teacher knows the whole world, but never written, and no other task has them.
    """
    secret, further = held_out(), list(beyond(BEYOND, "lessons"))
    seen = [each for each in instructions() if each.text not in secret]
    unwritten = secret | {each.text for each in further}
    drawn = {}
    for place, (task, (own, other)) in enumerate(counts.items()):
        world = batches(lessons(tokenizer, task, instructions() if task == "answer" else seen, unwritten), own, seed + 2 * place)
        drawn[task] = world, batches(lessons(tokenizer, task, further, unwritten), other, seed + 2 * place + 1)
    while True:
        yield {task: [*next(world), *next(open_forms)] for task, (world, open_forms) in drawn.items()}


def train_teacher(folder: Path, seed: int, tick: Callable[[int, float], None]) -> dict[str, Any]:
    """Train the teacher and write it to `folder`. Returns its figures."""
    from transformers import Qwen2ForCausalLM

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = cast(nn.Module, Qwen2ForCausalLM(text_config(tokenizer)).float())
    initialise(model)
    steps = {
        "learning": _learn(model, tokenizer, *LEARNING, seed, tick),
        "polishing": _learn(model, tokenizer, *POLISHING, seed + 100, tick),
    }
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    cast(Any, model).save_pretrained(folder)
    return {"seed": seed, "steps": steps, "parameters": sum(each.numel() for each in model.parameters())} | measured(model, tokenizer, seed)


def _learn(model: nn.Module, tokenizer: Any, schedule: Schedule, counts: Rows, seed: int, tick: Callable[[int, float], None]) -> int:
    drawn = _curriculum(tokenizer, counts, seed)

    def loss_of(_step: int) -> torch.Tensor:
        return torch.stack([WEIGHTS[task] * _loss(model, rows, tokenizer.pad_token_id) for task, rows in next(drawn).items()]).sum()

    def after(step: int, loss: float) -> bool:
        tick(step, loss)
        return False

    return optimise(model, schedule, loss_of, after)


def _loss(model: nn.Module, rows: Sequence[Lesson], padding: int) -> torch.Tensor:
    """Of one task, whose rows are about as long as each other."""
    logits = cast(Any, model)(input_ids=pad([row.given + row.turn + row.answer for row in rows], padding), use_cache=False).logits
    loss = answer_loss(logits, [row.given + row.turn for row in rows], [row.answer for row in rows])
    if any(row.turn for row in rows):
        loss = loss + WRITING_WEIGHT * answer_loss(logits, [row.given for row in rows], [row.turn for row in rows])
    return loss


def measured(model: nn.Module, tokenizer: Any, seed: int) -> dict[str, Any]:
    """Accuracy by split; by task on instructions that no lesson of the task has; and what it writes by itself."""
    unseen = {"held_out": members("validation") + members("test"), "beyond": list(beyond(400, "measure"))}
    return {
        "accuracy": {split: right_share(model, tokenizer, members(split)) for split in SPLITS},
        "tasks": {name: {task: right_share(model, tokenizer, each, task) for task in TASKS} for name, each in unseen.items()},
        "writes": {f"{temperature:g}": _writing(model, tokenizer, temperature, seed) for temperature in (1.0, 1.2)},
    }


def _writing(model: nn.Module, tokenizer: Any, temperature: float, seed: int, count: int = 1000) -> dict[str, Any]:
    torch.manual_seed(seed)
    texts = written_instructions(model, tokenizer, count, temperature)
    understood = [found for found in map(understand, texts) if found is not None]
    learned = {each.text for each in members("learned")}
    different = {each.text: each for each in understood}
    return {
        "well_formed": len(understood) / count,
        "different": len(different) / count,
        "not_in_learned": sum(each.text not in learned for each in understood) / count,
        "held_out": sum(text in held_out() for text in texts) / count,
        "topics": dict(Counter(each.topic for each in different.values()).most_common()),
    }


def right_share(model: nn.Module, tokenizer: Any, about: Sequence[Instruction], task: Task = "answer") -> float:
    """Share of the instructions with which the model does `task` right, greedily."""
    texts = written_answers(model, tokenizer, [asked(task, each.text) for each in about])
    return sum(text == wanted(task, each) for each, text in zip(about, texts, strict=True)) / len(about)


@torch.no_grad()
def written_instructions(model: nn.Module, tokenizer: Any, count: int, temperature: float) -> list[str]:
    """What the model writes in the user's place, sampled."""
    model.eval()
    before = prompt_ids(tokenizer, "")
    ids = torch.tensor([before[: before.index(tokenizer.eos_token_id)]]).expand(count, -1)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    done = cast(Any, model).generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=LONGEST, **sampling)
    return cast(list[str], tokenizer.batch_decode(done[:, ids.shape[1] :], skip_special_tokens=True))


@torch.no_grad()
def written_answers(model: nn.Module, tokenizer: Any, turns: Sequence[str], batch: int = 256) -> list[str]:
    """Greedy answers to user's turns, in their order."""
    model.eval()
    texts = []
    for start in range(0, len(turns), batch):
        rows = [prompt_ids(tokenizer, text) for text in turns[start : start + batch]]
        longest = max(map(len, rows))
        ids = torch.tensor([[tokenizer.pad_token_id] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        done = cast(Any, model).generate(input_ids=ids, attention_mask=mask, max_new_tokens=LONGEST, do_sample=False)
        texts += tokenizer.batch_decode(done[:, longest:], skip_special_tokens=True)
    return texts


def write_references(teacher: Path, target: Path) -> None:
    """Write the teacher's own answers to the training instructions, ``{instruction: answer}``, gzipped without a time stamp."""
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    turns = [each.text for split in ("learned", "train") for each in members(split)]
    texts = written_answers(Qwen2ForCausalLM.from_pretrained(str(teacher)), AutoTokenizer.from_pretrained(str(teacher)), turns)
    table = json.dumps(dict(sorted(zip(turns, texts, strict=True))), indent=0)
    target.write_bytes(gzip.compress(table.encode(), mtime=0))
