"""Back to good weights: the engine's tensors bit for bit, and whole runs with batches that no loss survives."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests.learner.rewinding import CASES


def in_processes(module: str, world: int, arguments: list[str]) -> list[tuple[int, str]]:
    """Exit status and output of ``python -m MODULE ARGUMENTS RANK WORLD MASTER`` for every rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{probe.getsockname()[1]}"
    running = [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments, str(rank), str(world), master],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(world)
    ]
    printed = [process.communicate(timeout=250)[0].decode() for process in running]
    return [(process.returncode, text) for process, text in zip(running, printed, strict=True)]


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def moments(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what an engine held at each moment (see `tests.learner.rewinding`)."""
    out = tmp_path_factory.mktemp("moments")
    for status, printed in in_processes("tests.learner.rewinding", request.param, [str(out), str(checkpoint)]):
        assert status == 0, printed[-3000:]
    return out


@pytest.mark.parametrize("case", CASES)
def test_a_running_engine_goes_back_to_the_same_bits(moments: Path, case: str) -> None:
    def tensors(moment: str) -> dict[str, Tensor]:
        return load_file(moments / f"{case}-{moment}.safetensors")

    def differing(one: str, other: str) -> list[str]:
        ours, theirs = tensors(one), tensors(other)
        assert ours.keys() == theirs.keys()
        return [name for name in ours if not ours[name].equal(theirs[name])]

    assert {name.partition("/")[0] for name in tensors("second")} == {"model", "weights", "exp_avg", "exp_avg_sq"}
    changed = differing("second", "later")
    assert {name.partition("/")[0] for name in changed} == {"model", "weights", "exp_avg", "exp_avg_sq"}
    assert differing("second", "second-again") == []
    assert differing("fifth", "fifth-fresh") == []
    assert len(differing("fifth", "second")) > 50
    assert differing("start", "start-again") == []
    assert differing("first", "first-again") == []
