"""A step's groups → rows of token ids and the indices that the losses need. Numpy only.

A row is one utterance's prompt followed by every answer that is judged on it: the reference, a chosen or a rejected completion.
The answers are branches: each attends to the prompt and to itself, and starts at the position where the prompt ends, so
a row gives exactly the log-probabilities of its answers one by one, while the prompt (with all its audio) is computed once.

    position    0 1 2 3 4 | 5 6 7 | 8 9 | padding
    token       prompt    | ref   | y   |
    branch      0 0 0 0 0 | 1 1 1 | 2 2 | -1
    place       0 1 2 3 4 | 5 6 7 | 5 6 | 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from learner.clips import Clips
from policies.adapter import Processing
from protocol.messages import REFERENCE, GroupResult, InstructionGroup, PreferencePair

CeUtterances = Literal["all", "pair"]
PairPrompt = Literal["own", "chosen"]
Ints = NDArray[np.int64]
Number = TypeVar("Number", bound=np.generic)
PADDING = -1


class TrainingGroup(msgspec.Struct):
    """One group of a step's batch: what was asked and how it ended. Travels from rank 0 to the other ranks."""

    group: InstructionGroup
    result: GroupResult


@dataclass(slots=True)
class Row:
    """One utterance's prompt and the answers that are judged on it."""

    audio: str | None
    prompt_ids: list[int]
    answers: list[list[int]] = field(default_factory=list)
    sampler_logprobs: list[NDArray[np.float32] | None] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward pass. `sequence` counts answers over all rows; groups and pairs keep the order they came in."""

    token_ids: Ints
    """``[row, position]``, padded on the right."""
    branch: Ints
    """``[row, position]``: 0 prompt, 1.. answer, -1 padding."""
    place: Ints
    """``[row, position]``: position ids for the rotary embedding."""
    is_audio: NDArray[np.bool_]
    """``[row, position]``: an audio embedding stands here."""
    clip: Ints
    """``[row with audio]``: index of its clip."""
    features: NDArray[np.float32]
    """``[clip, mel, frame]``; each distinct clip once, without the silence after the longest one. At least one: a silent one where no
    row has audio."""
    frame_mask: NDArray[np.int32]
    """``[clip, frame]``."""
    source: Ints
    """``[token]``: flat ``row * positions + position`` whose hidden state predicts the answer token."""
    target: Ints
    """``[token]``: the answer token."""
    sequence: Ints
    """``[token]``: the answer that it belongs to."""
    token_counts: Ints
    """``[sequence]``."""
    sampler_logprobs: NDArray[np.float32]
    """``[token]``: the sampler's own figure, NaN for the reference's tokens."""
    ce_sequence: Ints
    """``[ce]``: the reference on each of the voices that equation 1 averages over."""
    ce_group: Ints
    """``[ce]``."""
    chosen: Ints
    """``[pair]``: sequence of y^+."""
    rejected: Ints
    """``[pair]``: sequence of y^-."""
    pair_group: Ints
    """``[pair]``."""
    groups: int

    @property
    def tokens(self) -> int:
        """Positions that are computed, padding left out."""
        return int((self.branch != PADDING).sum())


def collate(
    items: Sequence[TrainingGroup],
    processing: Processing,
    clips: Clips,
    *,
    cross_entropy: bool,
    ce_utterances: CeUtterances = "all",
    pair_prompt: PairPrompt = "own",
) -> MicroBatch:
    """One micro-batch of `items`.

    Without `cross_entropy` only the sequences of the pairs are in it. Groups that nothing is left of keep their place and add no row;
    without any row at all one row with a single padding token stands in, for every rank must call the same modules.
    Raises `UserError` for audio that the data set lacks.
    """
    rows: list[Row] = []
    ce: list[tuple[int, int, int]] = []  # row, answer, group
    pairs: list[tuple[tuple[int, int], tuple[int, int], int]] = []
    for number, item in enumerate(items):
        builder = _GroupRows(item, processing, clips, rows)
        pairs.extend((*builder.pair(pair, pair_prompt), number) for pair in item.result.pairs)
        if cross_entropy:
            ce.extend((*builder.reference(utterance), number) for utterance in ce_voices(item, ce_utterances))
    if not rows:
        rows.append(Row(None, [processing.pad_token_id]))
    # sequences are numbered row by row, which needs all rows complete
    first = list(accumulate((len(row.answers) for row in rows), initial=0))
    return _pack(
        rows,
        processing,
        clips,
        ce_sequence=[first[row] + answer for row, answer, _ in ce],
        ce_group=[group for _, _, group in ce],
        chosen=[first[row] + answer for (row, answer), _, _ in pairs],
        rejected=[first[row] + answer for _, (row, answer), _ in pairs],
        pair_group=[group for _, _, group in pairs],
        groups=len(items),
    )


def by_length(items: Sequence[TrainingGroup]) -> list[TrainingGroup]:
    """The groups, longest rows last: neighbours then share a micro-batch with little padding, and ranks get about the same work.

    The step's loss is a mean over all groups, so that their order is of no consequence.
    """

    def length(item: TrainingGroup) -> tuple[float, int]:
        answers = sum(len(completion.token_ids) // 4 for completion in item.result.completions)
        return max((utterance.duration_s for utterance in item.group.utterances), default=0.0), answers

    return sorted(items, key=length)


def ce_voices(item: TrainingGroup, ce_utterances: CeUtterances) -> list[int]:
    """Utterances that equation 1 averages over: all of the group's, or those that a pair was made of."""
    if ce_utterances == "all":
        return list(range(len(item.group.utterances)))
    indices = {index for pair in item.result.pairs for index in (pair.chosen, pair.rejected) if index != REFERENCE}
    return sorted({item.result.completions[index].utterance for index in indices})


class _GroupRows:
    """Adds one group's rows and answers to the micro-batch, each of them once: utterances of the same audio share a row."""

    def __init__(self, item: TrainingGroup, processing: Processing, clips: Clips, rows: list[Row]) -> None:
        self._item, self._processing, self._clips, self._rows = item, processing, clips, rows
        self._row_of: dict[str | None, int] = {}
        """By what is heard; None for the written instruction."""
        self._answer_of: dict[tuple[int, int], int] = {}
        """By row, and by which answer it is."""

    def reference(self, utterance: int) -> tuple[int, int]:
        """(row, answer) of the teacher's reference on one utterance."""
        return self._answer(utterance, REFERENCE, self._processing.answer_ids(self._item.group.reference), None)

    def pair(self, pair: PreferencePair, pair_prompt: PairPrompt) -> tuple[tuple[int, int], tuple[int, int]]:
        """(row, answer) of the chosen and of the rejected side. A chosen reference is judged on the rejected answer's utterance."""
        completions = self._item.result.completions
        if pair.chosen == REFERENCE:
            return self.reference(completions[pair.rejected].utterance), self.completion(pair.rejected)
        heard = completions[pair.chosen].utterance if pair_prompt == "chosen" else None
        return self.completion(pair.chosen), self.completion(pair.rejected, heard)

    def completion(self, index: int, utterance: int | None = None) -> tuple[int, int]:
        """(row, answer) of a completion, its sampled token ids verbatim, on its own utterance unless another one is named."""
        completion = self._item.result.completions[index]
        token_ids = np.frombuffer(completion.token_ids, dtype="<i4").tolist()
        if utterance is None or self._audio(utterance) == self._audio(completion.utterance):
            return self._answer(completion.utterance, index, token_ids, np.frombuffer(completion.logprobs, dtype="<f4"))
        return self._answer(utterance, index, token_ids, None)  # the sampler's figures are those of another prompt

    def _answer(self, utterance: int, key: int, token_ids: list[int], logprobs: NDArray[np.float32] | None) -> tuple[int, int]:
        audio = self._audio(utterance)
        number = self._row_of.get(audio)
        if number is None:
            number = self._row_of[audio] = len(self._rows)
            self._rows.append(self._prompt_row(audio))
        row = self._rows[number]
        if (number, key) not in self._answer_of:
            self._answer_of[number, key] = len(row.answers)
            row.answers.append(token_ids)
            row.sampler_logprobs.append(logprobs)
        return number, self._answer_of[number, key]

    def _audio(self, utterance: int) -> str | None:
        return self._item.group.utterances[utterance].audio

    def _prompt_row(self, audio: str | None) -> Row:
        group = self._item.group
        if audio is None:
            return Row(None, self._processing.prompt_ids(group.prompt, instruction=group.instruction))
        return Row(audio, self._processing.prompt_ids(group.prompt, samples=self._clips.samples(audio)))


def _pack(rows: list[Row], processing: Processing, clips: Clips, *, groups: int, **indices: list[int]) -> MicroBatch:
    width = max(len(row.prompt_ids) + sum(map(len, row.answers)) for row in rows)
    token_ids = np.full((len(rows), width), processing.pad_token_id, np.int64)
    branch = np.full((len(rows), width), PADDING, np.int64)
    place = np.zeros((len(rows), width), np.int64)
    source: list[NDArray[np.int64]] = []
    target: list[NDArray[np.int64]] = []
    logprobs: list[NDArray[np.float32]] = []
    for number, row in enumerate(rows):
        prompt = len(row.prompt_ids)
        token_ids[number, :prompt] = row.prompt_ids
        branch[number, :prompt] = 0
        place[number, :prompt] = np.arange(prompt)
        start = prompt
        for answer, (answer_ids, sampled) in enumerate(zip(row.answers, row.sampler_logprobs, strict=True)):
            end = start + len(answer_ids)
            token_ids[number, start:end] = answer_ids
            branch[number, start:end] = answer + 1
            place[number, start:end] = prompt + np.arange(len(answer_ids))
            before = np.arange(start - 1, end - 1)
            before[:1] = prompt - 1  # the prompt's last position predicts every answer's first token
            source.append(number * width + before)
            target.append(np.asarray(answer_ids, np.int64))
            logprobs.append(np.full(len(answer_ids), np.nan, np.float32) if sampled is None else sampled)
            start = end
    audios = [row.audio for row in rows if row.audio is not None]
    number_of = {audio: number for number, audio in enumerate(dict.fromkeys(audios))}
    features, frame_mask = clips.features(list(number_of)) if audios else clips.silence()
    frames = processing.frames_needed(frame_mask)
    counts = [len(answer) for row in rows for answer in row.answers]
    return MicroBatch(
        token_ids=token_ids,
        branch=branch,
        place=place,
        # a sampled answer may hold the placeholder's id: only a prompt's placeholders are audio
        is_audio=(token_ids == processing.audio_token_id) & (branch == 0),
        clip=np.asarray([number_of[audio] for audio in audios], np.int64),
        features=features[:, :, :frames],
        frame_mask=frame_mask[:, :frames],
        source=_joined(source, np.int64),
        target=_joined(target, np.int64),
        sequence=np.repeat(np.arange(len(counts)), counts).astype(np.int64),
        token_counts=np.asarray(counts, np.int64),
        sampler_logprobs=_joined(logprobs, np.float32),
        groups=groups,
        **{name: np.asarray(values, np.int64) for name, values in indices.items()},
    )


def _joined(parts: list[NDArray[Number]], dtype: type[Number]) -> NDArray[Number]:
    return np.concatenate(parts) if parts else np.empty(0, dtype)
