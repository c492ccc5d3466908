"""The learner's step beside the loop that a user would write, at sizes from the quickstart's to 250 M parameters, on random weights.

    python -m benchmarks.learner [--sizes quickstart 20M 80M 250M] [--json FILE]

The plain loop: Hugging Face's model with its 30 s window, chosen and rejected answers and the references in a forward pass each, logits of
all positions, AdamW. A second peer has the learner's window and everything else as plain. Both sides take turns in one process and have
to give the same loss. Memory is measured in a process per side: the peak above weights, gradients and Adam's moments.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from benchmarks.rows import row, table
from configs.schema import LearnerSection, LossSection
from learner.clips import Clips
from learner.collate import TrainingGroup
from learner.engine import Engine, prepare_environment
from learner.ranks import Ranks
from policies.adapter import Processing, Samples, adapter
from policies.qwen2_audio import save_model
from protocol.messages import Completion, GroupResult, InstructionGroup, Outcome, PolicyVersion, PreferencePair, Utterance, VersionSpan

VOICES = 4
SHORT_S, LONG_S = 4, 30
LOSS = LossSection(beta=0.1, lambda_ce=0.2)
RATE = 1e-5


@dataclass(frozen=True)
class Size:
    """Dimensions of a model, and the groups of its step."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    groups: int
    repeats: int


SIZES = {
    "quickstart": Size(128, 3, 4, 578, 8, 9),
    "20M": Size(384, 6, 6, 4096, 4, 5),
    "80M": Size(640, 9, 10, 16384, 4, 3),
    "250M": Size(1024, 12, 16, 32768, 2, 3),
}


def write_checkpoint(folder: Path, size: Size, window_s: int) -> Path:
    """Random weights, the same ones for every window: only the audio tower's positions differ, which are sinusoids."""
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, WhisperFeatureExtractor

    from quickstart.training.speechlm import sinusoids
    from quickstart.training.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80, chunk_length=window_s, return_attention_mask=True).save_pretrained(folder)
    tower = {
        "d_model": size.hidden,
        "encoder_layers": size.layers,
        "encoder_attention_heads": size.heads,
        "encoder_ffn_dim": 4 * size.hidden,
    }
    text = {"hidden_size": size.hidden, "intermediate_size": 3 * size.hidden, "num_hidden_layers": size.layers}
    text |= {
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "vocab_size": size.vocabulary,
        "tie_word_embeddings": False,
    }
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": 80,
            "max_source_positions": 50 * window_s,
            "encoder_ffn_dim": 4 * size.hidden,
            **tower,
        },
        text_config={"model_type": "qwen2", "max_position_embeddings": 2048, "tie_word_embeddings": False, **text},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    torch.manual_seed(0)
    with torch.device("meta"):
        model: Any = Qwen2AudioForConditionalGeneration(config)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "embed_positions" not in name:
            parameter.data.normal_(std=0.02, generator=generator)
    model.model.audio_tower.embed_positions.weight.data = sinusoids(50 * window_s, size.hidden)
    save_model(model, folder)
    return folder


def batch(size: Size) -> list[TrainingGroup]:
    """Groups of four voices: a pair each, answers of a sentence's length."""
    rng = np.random.default_rng(0)
    items = []
    for number in range(size.groups):
        utterances = [Utterance(f"voice-{voice}", f"{number}-{voice}", 0.0) for voice in range(VOICES)]
        group = InstructionGroup(f"g{number}", "", "the capital of peru is lima", utterances)
        sampled = []
        for voice in range(VOICES):
            ids = rng.integers(300, 570, int(rng.integers(6, 14))).astype("<i4")
            span = VersionSpan(PolicyVersion(0, 0), 0, len(ids))
            sampled.append(
                Completion(voice, ids.tobytes(), np.zeros(len(ids), "<f4").tobytes(), f"answer {voice}", "stop", [span], float(voice))
            )
        result = GroupResult(number, 0, group.group_id, Outcome.PAIRS, completions=sampled, pairs=[PreferencePair(VOICES - 1, 0)])
        items.append(TrainingGroup(group, result))
    return items


def spoken(audio: str) -> Samples:
    """A clip of one to three seconds of noise."""
    number, voice = map(int, audio.split("-"))
    rng = np.random.default_rng([number, voice])
    return rng.normal(scale=0.1, size=int(16_000 * rng.uniform(1.0, 3.0))).astype(np.float32)


Pick = Callable[[GroupResult], list[int]]


class PlainLoop:
    """What a user would write: one forward pass for the chosen answers, one for the rejected ones, one for the references."""

    def __init__(self, checkpoint: Path, items: Sequence[TrainingGroup]) -> None:
        self._model: Any = adapter("qwen2_audio").load_model(checkpoint, "float32")
        self._model.train()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
        processing = adapter("qwen2_audio").open(checkpoint)
        self._chosen = self._rows(items, processing, lambda result: [result.pairs[0].chosen])
        self._rejected = self._rows(items, processing, lambda result: [result.pairs[0].rejected])
        self._references = self._rows(items, processing, None)

    def _rows(
        self, items: Sequence[TrainingGroup], processing: Processing, pick: Callable[[GroupResult], list[int]] | None
    ) -> dict[str, Tensor]:
        rows, clips = [], []
        for item in items:
            answers = [(voice, processing.answer_ids(item.group.reference)) for voice in range(VOICES)]
            if pick is not None:
                completions = [item.result.completions[index] for index in pick(item.result)]
                answers = [(each.utterance, np.frombuffer(each.token_ids, "<i4").tolist()) for each in completions]
            for voice, ids in answers:
                clips.append(spoken(item.group.utterances[voice].audio or ""))
                rows.append((processing.prompt_ids("", samples=clips[-1]), ids))
        width = max(len(prompt) + len(answer) for prompt, answer in rows)
        token_ids = torch.full((len(rows), width), processing.pad_token_id)
        mask, labels = torch.zeros_like(token_ids), torch.full_like(token_ids, -100)
        for number, (prompt, answer) in enumerate(rows):
            end = len(prompt) + len(answer)
            token_ids[number, :end] = torch.tensor(prompt + answer)
            mask[number, :end] = 1
            labels[number, len(prompt) : end] = torch.tensor(answer)
        features, frame_mask = processing.features(clips)
        inputs = {"input_ids": token_ids, "attention_mask": mask, "labels": labels}
        return inputs | {"input_features": torch.tensor(features), "feature_attention_mask": torch.tensor(frame_mask)}

    def _logprobs(self, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sums over each answer's tokens, and their number."""
        inputs = {name: tensor for name, tensor in rows.items() if name != "labels"}
        logits = self._model(**inputs).logits[:, :-1].log_softmax(-1)
        labels = rows["labels"][:, 1:]
        own = labels != -100
        tokens = logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        return (tokens * own).sum(-1), own.sum(-1)

    def step(self) -> float:
        """One optimiser step. Returns the loss."""
        chosen, rejected = self._logprobs(self._chosen)[0], self._logprobs(self._rejected)[0]
        references, counts = self._logprobs(self._references)
        loss = -logsigmoid(LOSS.beta * (chosen - rejected)).mean() - LOSS.lambda_ce * (references / counts).mean()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        return float(loss.detach())


class Ours:
    """The learner's engine on one rank."""

    def __init__(self, checkpoint: Path, items: Sequence[TrainingGroup], ranks: Ranks, zero_stage: int = 0) -> None:
        family = adapter("qwen2_audio")
        processing = family.open(checkpoint)
        options: dict[str, Any] = {"batch_groups": len(items), "micro_batch_groups": len(items), "precision": "float32", "steps": 1000}
        section = LearnerSection(learning_rate=RATE, zero_stage=zero_stage, cpu_threads=0, **options)  # type: ignore[arg-type]
        self._engine = Engine(section, LOSS, family, checkpoint, processing, Clips(spoken, processing), ranks)
        self._items, self._number = list(items), 0

    def step(self) -> float:
        """One optimiser step, collation included. Returns the loss."""
        self._number += 1
        figures = self._engine.step(self._items, self._number).figures
        return figures.loss / figures.groups


Side = Callable[[], float]


def times(sides: Sequence[Side], repeats: int) -> list[float]:
    """Median seconds of a step of each side, taking turns. Raises `RuntimeError` when their first losses differ."""
    first = [side() for side in sides]
    if max(abs(loss - first[0]) for loss in first) > 1e-3 * abs(first[0]):
        raise RuntimeError(f"the sides do not compute the same loss: {first}")
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, seconds in zip(sides, taken, strict=True):
            started = time.perf_counter()
            side()
            seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in taken]


def compare(name: str, ranks: Ranks, folder: Path) -> list[dict[str, Any]]:
    """Rows of one size."""
    size = SIZES[name]
    items = batch(size)
    short, long = (write_checkpoint(folder / f"{name}-{window_s}", size, window_s) for window_s in (SHORT_S, LONG_S))
    ours = Ours(short, items, ranks)
    seconds = times([ours.step, PlainLoop(long, items).step, PlainLoop(short, items).step], size.repeats)
    rates = [size.groups / each for each in seconds]
    peers = (("plain loop, 30 s window", rates[1], {"quickstart": 5.0, "250M": 2.0}.get(name)), ("plain loop, same window", rates[2], 0.9))
    return [row(name, "pairs/s", rates[0], peer, theirs, target) for peer, theirs, target in peers]


def resident_bytes(key: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process."""
    line = next(line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def extra_bytes(name: str, side: str, folder: Path) -> int:
    """Peak of two steps above what the process had before, weights, gradients and two moments in float32 taken off."""
    size = SIZES[name]
    items = batch(size)
    checkpoint = write_checkpoint(folder / side, size, LONG_S if side == "plain" else SHORT_S)
    parameters = sum(each.numel() for each in adapter("qwen2_audio").load_model(checkpoint, "float32").parameters())
    ranks = Ranks(0, 1, "")
    gc.collect()
    before = resident_bytes("VmRSS")
    step = PlainLoop(checkpoint, items).step if side == "plain" else Ours(checkpoint, items, ranks).step
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far was that of loading
    step()
    step()
    return resident_bytes("VmHWM") - before - 16 * parameters


def memory(name: str) -> dict[str, Any]:
    """The memory row of one size, each side in a process of its own."""
    found = {}
    for side in ("ours", "plain"):
        command = [sys.executable, "-m", "benchmarks.learner", "--memory-of", side, "--sizes", name]
        found[side] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    return row(f"{name}, memory of a step", "bytes", found["ours"], "plain loop, 30 s window", found["plain"], 0.6)


def measure(sizes: Sequence[str] = tuple(SIZES)) -> list[dict[str, Any]]:
    """Every row; the memory of a step at 250 M parameters only."""
    prepare_environment(LearnerSection(cpu_threads=0))
    ranks = Ranks(0, 1, "")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in sizes:
            rows += compare(name, ranks, Path(folder))
    if "250M" in sizes:
        rows.append(memory("250M"))
    ranks.close()
    return rows


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", choices=("ours", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        prepare_environment(LearnerSection(cpu_threads=0))
        with tempfile.TemporaryDirectory() as folder:
            print(extra_bytes(options.sizes[0], options.memory_of, Path(folder)))
        return
    rows = measure(options.sizes)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps({"bench": "learner", "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
