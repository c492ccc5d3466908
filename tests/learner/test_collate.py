"""Rows, branches and indices; and that a shared pass gives what one answer at a time gives."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.clips import Clips
from learner.collate import PADDING, TrainingGroup, by_length, ce_voices, collate
from learner.logprobs import AnswerLogProbs, attention, by_sequence, token_logprobs
from policies.adapter import Processing, adapter
from protocol.messages import REFERENCE, InstructionGroup, Utterance
from tests.learner.conftest import spoken
from tests.learner.groups import END, completion, group, item_group, item_single, result


def answers(item: TrainingGroup, index: int) -> list[int]:
    return np.frombuffer(item.result.completions[index].token_ids, "<i4").tolist()


def test_a_pair_of_group_strategy_has_two_audios(processing: Processing, clips: Clips) -> None:
    batch = collate([item_group()], processing, clips, cross_entropy=False)
    assert len(batch.clip) == 2
    assert len(set(batch.clip.tolist())) == 2
    assert len(batch.token_counts) == 2
    frames = batch.features.shape[2]
    assert 150 < frames < 200  # of 400: the longer clip has 1.5 s
    assert np.array_equal(batch.features, clips.features(["0-2", "0-0"])[0][:, :, :frames])


def test_sampled_ids_are_used_verbatim_with_their_end(processing: Processing, clips: Clips) -> None:
    item = item_group()
    batch = collate([item], processing, clips, cross_entropy=False)
    for sequence, index in ((batch.chosen[0], 2), (batch.rejected[0], 0)):
        found = batch.target[batch.sequence == sequence].tolist()
        assert found == answers(item, index)
        assert found[-1] == END
        assert batch.token_counts[sequence] == len(found)


def test_a_truncated_rejected_answer_gets_no_end(processing: Processing, clips: Clips) -> None:
    item = TrainingGroup(group(), result([completion(0, [30, 31, 32], finish="length"), completion(1)], [(1, 0)]))
    batch = collate([item], processing, clips, cross_entropy=False)
    assert batch.target[batch.sequence == batch.rejected[0]].tolist() == [30, 31, 32]


def test_the_reference_ends_too_and_is_spoken_to_by_every_voice(processing: Processing, clips: Clips) -> None:
    item = item_group(text=True)
    batch = collate([item], processing, clips, cross_entropy=True)
    assert len(batch.ce_sequence) == 4  # three voices and the text
    for sequence in batch.ce_sequence:
        assert batch.target[batch.sequence == sequence].tolist() == processing.answer_ids(item.group.reference)
    assert len(batch.clip) == 3
    assert len(batch.token_ids) == 4
    assert batch.is_audio.any(axis=1).tolist().count(False) == 1


def test_single_shares_the_reference_between_the_pair_and_the_cross_entropy(processing: Processing, clips: Clips) -> None:
    batch = collate([item_single()], processing, clips, cross_entropy=True)
    assert len(batch.token_counts) == 6  # three samples, three references
    assert sorted(batch.chosen.tolist()) == sorted(batch.ce_sequence.tolist())
    assert len(batch.token_ids) == len(batch.clip) == len(batch.features) == 3


def test_every_clip_is_encoded_once(processing: Processing, clips: Clips) -> None:
    batch = collate([item_group(0), item_group(0), item_group(1)], processing, clips, cross_entropy=True)
    assert len(batch.clip) == 9
    assert len(batch.features) == 6


def test_utterances_of_the_same_audio_share_a_row(processing: Processing, clips: Clips) -> None:
    item = item_group()
    same = msgspec.structs.replace(item.group, utterances=[item.group.utterances[0]] * 3)
    batch = collate([TrainingGroup(same, item.result)], processing, clips, cross_entropy=True, pair_prompt="chosen")
    assert len(batch.token_ids) == len(batch.clip) == 1
    assert len(batch.token_counts) == 3  # the pair and the reference, which counts once for each utterance
    assert len(batch.ce_sequence) == 3
    assert len(set(batch.ce_sequence.tolist())) == 1
    assert not np.isnan(batch.sampler_logprobs[batch.sequence == batch.rejected[0]]).any()


def test_ce_utterances_of_the_pair_alone(processing: Processing, clips: Clips) -> None:
    item = item_group(text=True)
    assert ce_voices(item, "all") == [0, 1, 2, 3]
    assert ce_voices(item, "pair") == [0, 2]
    assert ce_voices(TrainingGroup(group(), result([completion(0)])), "pair") == []
    assert len(collate([item], processing, clips, cross_entropy=True, ce_utterances="pair").ce_sequence) == 2


def test_the_rejected_answer_may_be_judged_on_the_chosen_voice(processing: Processing, clips: Clips) -> None:
    batch = collate([item_group()], processing, clips, cross_entropy=False, pair_prompt="chosen")
    assert len(batch.token_ids) == len(batch.clip) == 1
    assert np.array_equal(batch.features[0], clips.features(["0-2"])[0][0, :, : batch.features.shape[2]])
    of_chosen, of_rejected = (batch.sequence == sequence[0] for sequence in (batch.chosen, batch.rejected))
    assert batch.target[of_rejected].tolist() == answers(item_group(), 0)
    assert np.isfinite(batch.sampler_logprobs[of_chosen]).all()
    assert np.isnan(batch.sampler_logprobs[of_rejected]).all()  # they were sampled on another voice


def test_branches_see_the_prompt_and_themselves() -> None:
    branch = torch.tensor([[0, 0, 1, 1, 2, PADDING, PADDING]])
    seen = attention(branch)[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1, 1],
    ]


def test_a_placeholder_in_an_answer_is_no_audio(processing: Processing, clips: Clips) -> None:
    sampled = [completion(0, [30, processing.audio_token_id, END]), completion(1)]
    batch = collate([TrainingGroup(group(), result(sampled, [(1, 0)]))], processing, clips, cross_entropy=False)
    expected = sum(processing.audio_tokens(len(spoken(f"0-{voice}"))) for voice in (0, 1))
    assert int(batch.is_audio.sum()) == expected


@pytest.fixture(scope="module")
def scorer(checkpoint: Path) -> AnswerLogProbs:
    family = adapter("qwen2_audio")
    return AnswerLogProbs(family.load_model(checkpoint, "float32"), family).eval()


def alone(scorer: AnswerLogProbs, processing: Processing, item: TrainingGroup, utterance: int, token_ids: list[int]) -> float:
    """log π of one answer, by transformers' own forward on the processor's own layout."""
    entry = item.group.utterances[utterance]
    model = scorer.model
    if entry.audio is None:
        prompt = processing.prompt_ids(item.group.prompt, instruction=item.group.instruction)
        audio = {}
    else:
        samples = spoken(entry.audio)
        prompt = processing.prompt_ids(item.group.prompt, samples=samples)
        features, frame_mask = processing.features([samples])
        audio = {"input_features": torch.tensor(features), "feature_attention_mask": torch.tensor(frame_mask)}
    ids = torch.tensor([[*prompt, *token_ids]])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **audio).logits[0]
    scores = logits.double().log_softmax(-1)
    return float(sum(scores[len(prompt) - 1 + place, token] for place, token in enumerate(token_ids)))


def test_shared_rows_give_each_answers_own_logprob(scorer: AnswerLogProbs, processing: Processing, clips: Clips) -> None:
    items = [item_group(0, text=True), item_single(1), TrainingGroup(group(2), result([completion(0)]))]
    batch = collate(items, processing, clips, cross_entropy=True)
    with torch.no_grad():
        found = by_sequence(scorer(batch), batch).sequences
    pairs = iter(zip(batch.chosen.tolist(), batch.rejected.tolist(), strict=True))
    for item in items:
        for pair in item.result.pairs:
            chosen, rejected = next(pairs)
            voice = item.result.completions[pair.rejected].utterance
            if pair.chosen == REFERENCE:
                expected = alone(scorer, processing, item, voice, processing.answer_ids(item.group.reference))
            else:
                expected = alone(scorer, processing, item, item.result.completions[pair.chosen].utterance, answers(item, pair.chosen))
            assert found[chosen].item() == pytest.approx(expected, abs=2e-4)
            assert found[rejected].item() == pytest.approx(alone(scorer, processing, item, voice, answers(item, pair.rejected)), abs=2e-4)
    references = [(item, utterance) for item in items for utterance in ce_voices(item, "all")]
    for sequence, (item, utterance) in zip(batch.ce_sequence.tolist(), references, strict=True):
        expected = alone(scorer, processing, item, utterance, processing.answer_ids(item.group.reference))
        assert found[sequence].item() == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("items", [[], [TrainingGroup(group(0, 0, text=True), result())]])
def test_without_audio_every_module_still_runs_and_gets_a_gradient(
    scorer: AnswerLogProbs, processing: Processing, clips: Clips, items: list[TrainingGroup]
) -> None:
    batch = collate(items, processing, clips, cross_entropy=True)
    assert len(batch.features) == 1
    scorer.zero_grad()
    (scorer(batch).sum() + 0.0).backward()
    trained = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
    projector = scorer.model.model.multi_modal_projector.linear.weight
    assert not projector.grad.any()


def test_chunked_log_softmax_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(23, 50, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.arange(23) % 50
    whole = token_logprobs(logits, target)
    (expected,) = torch.autograd.grad(whole.square().sum(), logits)
    monkeypatch.setattr("learner.logprobs.CHUNK_TOKENS", 5)
    chunked = token_logprobs(logits, target)
    (found,) = torch.autograd.grad(chunked.square().sum(), logits)
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(found, expected)
    assert whole[3].item() == pytest.approx(float(logits.detach().double().log_softmax(-1)[3, 3]), rel=1e-5)


def test_logprobs_are_float32_whatever_the_logits(processing: Processing) -> None:
    assert token_logprobs(torch.zeros(4, 9, dtype=torch.bfloat16), torch.arange(4)).dtype == torch.float32


def test_cached_clips_are_read_once(processing: Processing) -> None:
    read: list[str] = []

    def load(audio: str):  # type: ignore[no-untyped-def]
        read.append(audio)
        return spoken(audio)

    kept = Clips(load, processing)
    kept.samples("0-0")
    kept.features(["0-0", "0-1"])
    assert read == ["0-0", "0-1"]
    small = Clips(load, processing, cache_bytes=1)
    read.clear()
    small.features(["0-0", "0-1"])
    small.samples("0-0")
    assert read == ["0-0", "0-1", "0-0"]


@given(durations=st.lists(st.tuples(st.floats(0.5, 3.9), st.integers(1, 30)), min_size=1, max_size=12), size=st.integers(1, 4))
def test_groups_by_length_need_no_more_padding(durations: list[tuple[float, int]], size: int) -> None:
    items = [
        TrainingGroup(
            InstructionGroup(f"g{number}", "", "", [Utterance("a", f"{number}-0", duration_s)]), result([completion(0, [5] * tokens)])
        )
        for number, (duration_s, tokens) in enumerate(durations)
    ]
    ordered = by_length(items)
    assert sorted(item.group.group_id for item in ordered) == sorted(item.group.group_id for item in items)

    def padded(order: list[TrainingGroup]) -> float:
        rows = [item.group.utterances[0].duration_s for item in order]
        return sum(max(rows[start : start + size]) * len(rows[start : start + size]) for start in range(0, len(rows), size))

    if len(items) % size == 0:  # else it depends on the lengths whether the short micro-batch is best at the short or at the long end
        assert padded(ordered) <= padded(items) + 1e-9
