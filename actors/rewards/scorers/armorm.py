"""Edge file (torch, transformers): ArmoRM-Llama3-8B, the paper's reward model, natively over `LlamaModel`.

Its published checkpoint runs remote code that newer transformers refuse; the heads are small and are computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch.nn.functional import linear, relu, softmax
from transformers import LlamaModel

from actors.rewards.scorers import checkpoint
from actors.rewards.scorers.conversation import Conversation, Judged, UnscorableError
from actors.rewards.scorers.model_scorer import ModelScorer
from configs.sampling import RewardsSection
from protocol.errors import UserError

ASSISTANT_HEADER = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
"""Ends the prompt; the gating network reads the hidden state at its first token."""

ATTRIBUTES = [
    *("helpsteer-helpfulness", "helpsteer-correctness", "helpsteer-coherence", "helpsteer-complexity", "helpsteer-verbosity"),
    *("ultrafeedback-overall_score", "ultrafeedback-instruction_following", "ultrafeedback-truthfulness", "ultrafeedback-honesty"),
    *("ultrafeedback-helpfulness", "beavertails-is_safe", "prometheus-score", "argilla-overall_quality", "argilla-judge_lm"),
    *("code-complexity", "code-style", "code-explanation", "code-instruction-following", "code-readability"),
]
"""What the 19 rows of the regression layer stand for."""


class ArmoHeads:
    """Regression and gating over hidden states, in float32 whatever the body's number format.

    rewards = W h_last ``[objective]``; gating = softmax(MLP(h_prompt) / temperature) · scale ``[objective]``;
    score = Σ gating · (rewards @ transform).
    """

    def __init__(self, tensors: dict[str, torch.Tensor], gating_layers: int, temperature: float, device: torch.device) -> None:
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        self._regression = moved["regression_layer.weight"]
        self._transform = moved["reward_transform_matrix"]
        self._scale = moved["gating.logit_scale"]
        self._layers = [(moved[f"gating.layers.{i}.weight"], moved[f"gating.layers.{i}.bias"]) for i in range(gating_layers)]
        self._temperature = temperature

    @staticmethod
    def names(gating_layers: int) -> list[str]:
        """The heads' published tensor names."""
        layers = [f"gating.layers.{i}.{kind}" for i in range(gating_layers) for kind in ("weight", "bias")]
        return ["regression_layer.weight", "reward_transform_matrix", "gating.logit_scale", *layers]

    def __call__(self, last: torch.Tensor, prompt: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score ``[conversation]`` and rewards ``[conversation, objective]`` of hidden states ``[conversation, hidden]``."""
        rewards = linear(last.float(), self._regression)
        gate = prompt.float()
        for weight, bias in self._layers[:-1]:
            gate = relu(linear(gate, weight, bias))
        weight, bias = self._layers[-1]
        gating = softmax(linear(gate, weight, bias) / self._temperature, dim=-1) * self._scale
        return (gating * (rewards @ self._transform)).sum(dim=-1), rewards


class ArmoScorer(ModelScorer):
    """ArmoRM: 19 rewards, mixed by a gating network that reads the prompt alone."""

    def __init__(self, section: RewardsSection) -> None:
        """Loads the checkpoint by its published tensor names. Raises `UserError` when it is no ArmoRM."""
        checkpoint.prepare_process(section)
        directory = checkpoint.directory_of(section)
        config = checkpoint.read_config(directory)
        architecture = (config.architectures or ["unknown"])[0]
        if config.model_type != "llama" or architecture != "LlamaForRewardModelWithGating":
            raise UserError(
                f"{directory} is no ArmoRM: its architecture is {architecture}",
                where=checkpoint.WHERE,
                fix="use ArmoRM-Llama3-8B-v0.1, or rewards.scorer=seqcls for other reward models",
            )
        tokenizer = checkpoint.read_tokenizer(directory)
        max_tokens = checkpoint.max_tokens_of(config)
        self._header = list(tokenizer(ASSISTANT_HEADER, add_special_tokens=False)["input_ids"])
        conversation = GatedConversation(tokenizer, max_tokens, str(directory), self._header)
        self._pad_id = checkpoint.pad_id_of(tokenizer)
        self._body: Any = checkpoint.read_body(LlamaModel, directory)
        gating_layers = int(getattr(config, "gating_n_hidden", 3)) + 1
        tensors = checkpoint.read_tensors(directory, ArmoHeads.names(gating_layers))
        self._heads = ArmoHeads(tensors, gating_layers, float(getattr(config, "gating_temperature", 10)), self._body.device)
        objectives = tensors["regression_layer.weight"].shape[0]
        self._attributes = ATTRIBUTES if objectives == len(ATTRIBUTES) else [f"objective-{i}" for i in range(objectives)]
        dtype = str(self._body.dtype).removeprefix("torch.")
        signature = f"ArmoRM|{directory.name}|dtype:{dtype}|max_tokens:{max_tokens}|transformers:{transformers.__version__}"
        super().__init__(section, conversation, signature)

    @torch.inference_mode()
    def _forward(self, token_ids: list[list[int]]) -> list[Judged]:
        padded, mask = checkpoint.right_padded(token_ids, self._pad_id, self._body.device)
        hidden = self._body(input_ids=padded, attention_mask=mask, use_cache=False).last_hidden_state
        rows = torch.arange(len(token_ids), device=hidden.device)
        prompt_ends = torch.tensor([last_occurrence(ids, self._header) for ids in token_ids], device=hidden.device)
        scores, rewards = self._heads(hidden[rows, mask.sum(dim=1) - 1], hidden[rows, prompt_ends])
        return [
            Judged(score, dict(zip(self._attributes, row, strict=True)))
            for score, row in zip(scores.tolist(), rewards.tolist(), strict=True)
        ]


class GatedConversation(Conversation):
    """A conversation that has the header at which the gate reads."""

    def __init__(self, tokenizer: Any, max_tokens: int, where: str, header: list[int]) -> None:
        """Raises `UserError` when the chat template writes another header."""
        super().__init__(tokenizer, max_tokens, where)
        self._header = header
        try:
            self.token_ids("instruction", "answer")
        except UnscorableError:
            raise UserError(
                "the chat template writes no Llama 3 assistant header",
                where=checkpoint.WHERE,
                fix="use ArmoRM's own tokenizer with its chat template",
            ) from None

    def _token_ids(self, instruction: str, answer: str) -> tuple[int, ...]:
        """As `Conversation`; raises `UnscorableError`, too, when the answer melts with the header."""
        ids = super()._token_ids(instruction, answer)
        if last_occurrence(ids, self._header) is None:
            raise UnscorableError("template: the chat template writes another assistant header for this answer")
        return ids


def last_occurrence(ids: Sequence[int], pattern: Sequence[int]) -> int | None:
    """Index of the first token of the last `pattern` in `ids`; None when there is none."""
    starts = range(len(ids) - len(pattern), -1, -1)
    return next((start for start in starts if tuple(ids[start : start + len(pattern)]) == tuple(pattern)), None)
