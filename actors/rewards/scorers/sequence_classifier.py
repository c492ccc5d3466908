"""Edge file (torch, transformers): reward models with one label, such as Skywork-Reward or the quickstart's."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoModelForSequenceClassification

from actors.rewards.scorers import checkpoint
from actors.rewards.scorers.conversation import Conversation, Judged
from actors.rewards.scorers.model_scorer import ModelScorer
from configs.sampling import RewardsSection
from protocol.errors import UserError


class SequenceClassifierScorer(ModelScorer):
    """Any ``AutoModelForSequenceClassification`` with one label: the logit at the conversation's last token."""

    def __init__(self, section: RewardsSection) -> None:
        """Loads the checkpoint. Raises `UserError` when it is no reward model."""
        checkpoint.prepare_process(section)
        directory = checkpoint.directory_of(section)
        config = checkpoint.read_config(directory)
        architecture = _architecture(config, str(directory))
        tokenizer = checkpoint.read_tokenizer(directory)
        max_tokens = checkpoint.max_tokens_of(config)
        conversation = Conversation(tokenizer, max_tokens, where=str(directory))
        self._pad_id = checkpoint.pad_id_of(tokenizer)
        self._model = checkpoint.read_body(AutoModelForSequenceClassification, directory)
        self._head: torch.Tensor | None = None
        if isinstance(getattr(self._model, "score", None), torch.nn.Linear):
            self._head = checkpoint.read_tensors(directory, ["score.weight"])["score.weight"].to(self._model.device)
        dtype = str(self._model.dtype).removeprefix("torch.")
        signature = f"{architecture}|{directory.name}|dtype:{dtype}|max_tokens:{max_tokens}|transformers:{transformers.__version__}"
        super().__init__(section, conversation, signature)

    @torch.inference_mode()
    def _forward(self, token_ids: list[list[int]]) -> list[Judged]:
        """Decoders are read at the last real token, through the float32 head.

        transformers looks for that token by the pad token, which is often the end token as well, and rounds the score to
        the body's number format.
        """
        padded, mask = checkpoint.right_padded(token_ids, self._pad_id, self._model.device)
        if self._head is None:
            logits = self._model(input_ids=padded, attention_mask=mask).logits[:, 0]
        else:
            body: Any = getattr(self._model, self._model.base_model_prefix)
            hidden = body(input_ids=padded, attention_mask=mask, use_cache=False).last_hidden_state
            last = hidden[torch.arange(len(token_ids), device=hidden.device), mask.sum(dim=1) - 1]
            logits = (last.float() @ self._head.T)[:, 0]
        return [Judged(value, {}) for value in logits.float().tolist()]


def _architecture(config: Any, where: str) -> str:
    """The architecture's name. Raises `UserError` when it does not give one score."""
    architecture = (config.architectures or ["unknown"])[0]
    if not architecture.endswith("ForSequenceClassification"):
        raise UserError(
            f"{where} is no reward model: its architecture is {architecture}",
            where=checkpoint.WHERE,
            fix="use a checkpoint saved as ...ForSequenceClassification (rewards.scorer=armorm for ArmoRM)",
        )
    if config.num_labels != 1:
        raise UserError(f"{where} has {config.num_labels} labels", where=checkpoint.WHERE, fix="use a reward model with one label")
    return str(architecture)
