"""Edge file (torch, transformers): near duplicates by meaning, with any encoder whose hidden states are averaged into a sentence's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

from configs.selection import MeaningSection
from protocol.errors import UserError

_WHERE = "filter.meaning.model"


class Meanings:
    """The sentences that were let in so far, as unit vectors on the model's device: four bytes a number, so 3 kB a text of 768.

    Every text is compared with every earlier one.
    """

    def __init__(self, section: MeaningSection) -> None:
        """Loads the model, on a GPU where there is one. Raises `UserError` where it cannot."""
        self._section = section
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(section.model)
            self._model: Any = AutoModel.from_pretrained(section.model, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{section.model} cannot be loaded: {str(error).splitlines()[0]}",
                where=_WHERE,
                fix="name the folder or Hub name of an encoder, such as sentence-transformers/all-mpnet-base-v2",
            ) from None
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(self._device).eval()
        self._ids: list[str] = []
        self._vectors = torch.zeros(0, int(self._model.config.hidden_size), device=self._device)

    def find(self, ids: Sequence[str], texts: Sequence[str]) -> list[str | None]:
        """The id of what each text repeats, the nearest one; those that repeat nothing are let in, and count for the ones after them."""
        if not texts:
            return []
        vectors = self.embed(texts)
        least = self._section.similarity
        before = [(0.0, -1)] * len(texts)
        if self._ids:
            similarities, owners = (vectors @ self._vectors[: len(self._ids)].T).max(dim=1)
            before = list(zip(similarities.tolist(), owners.tolist(), strict=True))
        within = (vectors @ vectors.T).cpu()
        found: list[str | None] = []
        entered: list[int] = []
        for number, (similarity, owner) in enumerate(before):
            name = self._ids[owner] if similarity >= least else None
            if entered:
                nearest, place = within[number, entered].max(dim=0)
                if float(nearest) >= least and float(nearest) > similarity:
                    name = ids[entered[int(place)]]
            if name is None:
                entered.append(number)
            found.append(name)
        self._append([ids[number] for number in entered], vectors[entered])
        return found

    def enter(self, ids: Sequence[str], texts: Sequence[str], let_in: Sequence[bool]) -> None:
        """Let texts in that `find` has let in before, of all that it was asked for: a vector's last bits depend on its batch."""
        if texts:
            entered = [number for number, each in enumerate(let_in) if each]
            self._append([ids[number] for number in entered], self.embed(texts)[entered])

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors, ``(texts, hidden)``: hidden states of the last layer, averaged over each text's tokens."""
        parts = []
        for start in range(0, len(texts), self._section.batch_texts):
            batch = [self._section.prefix + text for text in texts[start : start + self._section.batch_texts]]
            inputs = self._tokenizer(batch, padding=True, truncation=True, max_length=self._section.max_tokens, return_tensors="pt")
            inputs = {name: tensor.to(self._device) for name, tensor in inputs.items()}
            hidden = self._model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            parts.append(torch.nn.functional.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=1))
        return torch.cat(parts)

    def _append(self, ids: Sequence[str], vectors: torch.Tensor) -> None:
        """Doubles the room when it is full, so that a text is copied twice at most."""
        taken = len(self._ids)
        if taken + len(ids) > len(self._vectors):
            room = torch.zeros(max(1024, 2 * (taken + len(ids))), vectors.shape[1], device=self._device)
            room[:taken] = self._vectors[:taken]
            self._vectors = room
        self._vectors[taken : taken + len(ids)] = vectors
        self._ids += ids
