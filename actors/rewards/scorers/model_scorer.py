"""What scorers that read conversations with a network have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from actors.rewards.items import RewardItem, RewardScore
from actors.rewards.scorers.conversation import Conversation, Judged, score_conversations
from configs.sampling import RewardsSection


class ModelScorer(ABC):
    """A scorer (see `actors.rewards.scorers.scorer`) by one forward pass over many conversations."""

    def __init__(self, section: RewardsSection, conversation: Conversation, signature: str) -> None:
        self._conversation, self._signature = conversation, signature
        self._max_items, self._max_tokens = section.batch_items, section.batch_tokens

    @property
    def signature(self) -> str:
        """Network, checkpoint, number format, window and library version."""
        return self._signature

    def cost(self, item: RewardItem) -> int:
        """Tokens of the conversation."""
        return self._conversation.cost(item)

    def instruction_of(self, prompt: str) -> str:
        """What the checkpoint's own chat template has rendered, without it."""
        return self._conversation.instruction_of(prompt)

    def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        """The network's judgement of each conversation (user: instruction, assistant: answer)."""
        return score_conversations(items, self._conversation, self._forward, self._max_items, self._max_tokens)

    @abstractmethod
    def _forward(self, token_ids: list[list[int]]) -> list[Judged]:
        """From token ids ``[conversation][token]`` of different lengths to one judgement each."""
