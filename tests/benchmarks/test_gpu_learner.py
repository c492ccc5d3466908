"""The benchmark's whole path on tiny dimensions; only the device and the sizes are others than on a GPU."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import gpu_learner
from benchmarks.fitting import BYTES_PER_PARAMETER, SPARE_BYTES, activation_bytes, layers_that_fit, parameters
from benchmarks.gpu_learner import SEVEN_B, Audio, Bench, Found, Task
from benchmarks.speechlm import Size, Tower
from ops.memory import KNOWN_PARAMETERS

TINY = Bench(
    size=Size(hidden=32, layers=3, heads=2, vocabulary=700, tower=Tower(32, 1, 2, 64, mel=16)),
    audios=(Audio("1 to 2 s", (1.0, 2.0), 2), Audio("3 to 4 s", (3.0, 4.0), 1)),
    window_s=4,
    product=256,
    device="cuda" if torch.cuda.is_available() else "cpu",
)


def test_every_case_is_measured_on_both_sides() -> None:
    tasks: list[Task] = []

    def one(task: Task) -> Found:
        tasks.append(task)
        found = gpu_learner.measure_one(TINY, task)
        return json.loads(json.dumps(found)) | ({"peak_bytes": 1000 * len(tasks)} if task.side != "product" else {})

    rows = gpu_learner.compare(TINY, 2, one, repeats=1)
    assert [task.side for task in tasks] == ["product", *["ours", "plain"] * 4]
    assert [(task.audio, task.checkpointing) for task in tasks[1::2]] == [(0, False), (0, True), (1, False), (1, True)]
    assert [row["unit"] for row in rows] == ["tokens/s", "bytes", "TFLOP/s"] * 4
    assert all(row["ours"] > 0 and row["theirs"] > 0 for row in rows)
    assert rows[0]["case"] == "2 layers, audio of 1 to 2 s"
    assert rows[5]["case"] == "2 layers, audio of 1 to 2 s, gradient checkpointing"
    assert {row["peer"] for row in rows if row["unit"] == "TFLOP/s"} == {"256³ bfloat16 product"}


def test_a_side_without_memory_is_told_and_has_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"tokens": 100, "flops": 10**12, "loss": 1.0, "seconds": 0.5, "peak_bytes": 10}

    def one(task: Task) -> Found:
        if task.side == "product":
            return {"flops_per_s": 4e12}
        return {"failure": "out of memory"} if task.side == "plain" or task.audio == 1 else found

    rows = gpu_learner.compare(TINY, 2, one)
    assert [(row["unit"], row["ours"], row["ratio"]) for row in rows] == [("TFLOP/s", 2.0, 0.5)] * 2
    assert "1 to 2 s, gradient checkpointing, plain: out of memory" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="same loss"):
        gpu_learner.case_rows("case", found, found | {"loss": 1.1}, 1.0, "product")


def test_a_process_of_its_own_measures_or_says_why_not() -> None:
    found = gpu_learner.in_a_process(Task("product"))
    assert ("flops_per_s" if torch.cuda.is_available() else "failure") in found


def test_without_a_gpu_it_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_learner"])
    gpu_learner.main()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert "no GPU" in shown.err


def test_the_dimensions_are_those_of_the_released_model() -> None:
    assert parameters(SEVEN_B) == pytest.approx(KNOWN_PARAMETERS["Qwen/Qwen2-Audio-7B-Instruct"][0], rel=1e-3)


def test_as_many_layers_as_fit() -> None:
    works = gpu_learner.works_of(replace(TINY, size=replace(TINY.size, vocabulary=SEVEN_B.vocabulary)))
    assert [work.tokens > work.answer_tokens > 0 for work in works] == [True, True]

    def needed(layers: int) -> int:
        size = replace(SEVEN_B, layers=layers)
        kept = max(activation_bytes(size, work) for work in works)
        return BYTES_PER_PARAMETER * parameters(size) + kept + SPARE_BYTES

    for memory_bytes in (24 * 10**9, 80 * 10**9, 140 * 10**9, 400 * 10**9):
        layers = layers_that_fit(SEVEN_B, works, memory_bytes)
        assert layers == 1 or needed(layers) <= memory_bytes
        assert layers == 32 or needed(layers + 1) > memory_bytes
    assert [layers_that_fit(SEVEN_B, works, each * 10**9) for each in (24, 400)] == [1, 32]
