from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import Work, forward_flops, step_flops, work_of
from benchmarks.speechlm import Size, Tower, batch, noise, random_model, write_shell
from learner.clips import Clips
from learner.collate import collate
from learner.logprobs import AnswerLogProbs
from policies.adapter import adapter

SIZE = Size(hidden=96, layers=3, heads=4, vocabulary=700, intermediate=224, tower=Tower(64, 2, 4, 160, mel=40))


def test_the_count_is_what_torch_counts(tmp_path: Path) -> None:
    """Torch counts padding, which is computed; a step's own work leaves it out."""
    config = write_shell(tmp_path, SIZE, 4)
    family = adapter("qwen2_audio")
    processing = family.open(tmp_path)
    made = collate(batch(2), processing, Clips(noise(3.0, 3.0), processing), cross_entropy=True)
    work = work_of(made)
    module = AnswerLogProbs(random_model(config, "float32", torch.device("cpu")), family)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logprobs = module(made)
        forward = counter.get_total_flops()
        logprobs.sum().backward()
        both = counter.get_total_flops()
    computed = Work([made.token_ids.shape[1]] * len(made.token_ids), len(logprobs), [made.features.shape[2]] * len(made.features))
    assert forward_flops(SIZE, computed) == pytest.approx(forward, rel=0.01)
    assert step_flops(SIZE, computed) == pytest.approx(both, rel=0.03)  # the first convolution's input needs no gradient
    assert (work.tokens, work.answer_tokens, work.clips) == (made.tokens, len(logprobs), [300] * 8)
    assert forward_flops(SIZE, work) < forward
