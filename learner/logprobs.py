"""Log-probabilities of a micro-batch's answers under a model, in one forward pass. Edge: torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from learner.collate import PADDING, MicroBatch
from policies.adapter import Adapter

CHUNK_TOKENS = 4096
"""Answer tokens whose float32 logits are held at once; more are recomputed chunk by chunk in the backward pass."""


@dataclass(frozen=True, slots=True)
class LogProbs:
    """log π of answers, float32."""

    tokens: Tensor
    """``[token]``."""
    sequences: Tensor
    """``[sequence]``: sums over tokens."""


class AnswerLogProbs(nn.Module):
    """A SpeechLM as the learner calls it: micro-batch in, log-probabilities of the answers out.

    One module around the whole pass, since DeepSpeed's engine wraps a module's forward. Every call runs the same submodules
    once each (audio tower, projector, embedding, decoder, head), with or without audio: under ZeRO-3 all ranks must.
    """

    def __init__(self, model: nn.Module, family: Adapter) -> None:
        super().__init__()
        self.model = model
        self._family = family

    def forward(self, batch: MicroBatch) -> Tensor:
        """Log π ``[token]`` of each answer token, float32, in the batch's token order."""
        device = next(self.model.parameters()).device
        put = partial(torch.as_tensor, device=device)
        embeddings, lengths = self._family.audio_embeddings(self.model, put(batch.features), put(batch.frame_mask))
        token_ids, branch = put(batch.token_ids), put(batch.branch)
        hidden = self._family.hidden_states(
            self.model, token_ids, spliced(embeddings, lengths, put(batch.clip)), put(batch.is_audio), attention(branch), put(batch.place)
        )
        # without audio nothing is spliced in, yet the silent clip stays in the graph: its gradient is zero, its backward pass runs
        answers = hidden.flatten(0, 1)[put(batch.source)]
        return token_logprobs(self._family.logits(self.model, answers), put(batch.target))


def spliced(embeddings: Tensor, lengths: Tensor, clip: Tensor) -> Tensor:
    """Audio embeddings ``[audio position, hidden]`` of the rows' clips, padding left out, in row-major order."""
    own = torch.arange(embeddings.shape[1], device=embeddings.device)[None, :] < lengths[clip][:, None]
    return embeddings[clip][own]


def attention(branch: Tensor) -> Tensor:
    """Where a position may attend, bool ``[row, 1, position, position]``: backwards, to the prompt and to its own branch.

    A padding position attends to padding, itself included, so that its softmax stays finite.
    """
    backwards = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device).tril()
    same = branch[:, :, None] == branch[:, None, :]
    prompt = (branch == 0)[:, None, :] & (branch != PADDING)[:, :, None]
    return ((same | prompt) & backwards)[:, None]


def token_logprobs(logits: Tensor, target: Tensor) -> Tensor:
    """Log softmax(logits)[target] ``[token]`` in float32, whatever the dtype of `logits` ``[token, vocabulary]``."""
    if len(target) <= CHUNK_TOKENS:
        return _chunk_logprobs(logits, target)
    chunks = zip(torch.split(logits, CHUNK_TOKENS), torch.split(target, CHUNK_TOKENS), strict=True)
    return torch.cat([checkpoint(_chunk_logprobs, part, ids, use_reentrant=False) for part, ids in chunks])


def _chunk_logprobs(logits: Tensor, target: Tensor) -> Tensor:
    return -functional.cross_entropy(logits.float(), target, reduction="none")


def by_sequence(token_logprobs: Tensor, batch: MicroBatch) -> LogProbs:
    """Adds the sums over each answer's tokens."""
    sequence = torch.as_tensor(batch.sequence, device=token_logprobs.device)
    sums = token_logprobs.new_zeros(len(batch.token_counts)).index_add(0, sequence, token_logprobs)
    return LogProbs(tokens=token_logprobs, sequences=sums)
