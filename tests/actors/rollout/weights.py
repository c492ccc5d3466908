"""Policy versions of a test's model, and what transformers makes of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policies.adapter import Processing, Samples, adapter
from protocol.messages import PolicyVersion
from protocol.weights.files import directory_of, write_version
from protocol.weights.messages import Fetched


class Weights:
    """One model in memory; each `publish` writes it down as the next version."""

    def __init__(self, checkpoint: Path, root: Path, family: str = "qwen2_audio") -> None:
        import torch

        torch.set_num_threads(1)
        self.root = root
        self.family = adapter(family)
        self.model: Any = self.family.load_model(checkpoint, "float32").eval()
        self._original = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        self._steps = itertools.count(1)

    def restore(self) -> None:
        """The checkpoint's weights."""
        self.change(lambda name, parameter: parameter.copy_(self._original[name]))

    def perturb(self, part: str, scale: float = 0.5, seed: int = 0) -> None:
        """Add noise to the parameters whose names hold `part`."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        self.change(
            lambda name, parameter: parameter.add_(scale * torch.randn(parameter.shape, generator=generator)) if part in name else None
        )

    def change(self, what: Callable[[str, Any], object]) -> None:
        """Call `what` with each parameter."""
        import torch

        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                what(name, parameter)

    def publish(self, only: str = "") -> Fetched:
        """The model as the next version, as a node fetcher would leave it. With `only`, tensors whose names lack it are said to be
        unchanged.
        """
        version = PolicyVersion(0, next(self._steps))
        names = self.family.released_names(self.model)
        tensors = [
            (names[name], "F32", list(parameter.shape), parameter.detach().numpy().tobytes())
            for name, parameter in self.model.named_parameters()
            if only in names[name]
        ]
        unchanged = [name for name in names.values() if only not in name]
        manifest = write_version(self.root, version, tensors, 1 << 16, unchanged)
        return Fetched(version, str(directory_of(self.root, version)), manifest.digest, manifest.size_bytes, 0.0)

    def logprobs(self, processing: Processing, prompt_ids: Sequence[int], samples: Samples | None, token_ids: Sequence[int]) -> np.ndarray:
        """What transformers' own forward gives the tokens of an answer ``[token]``."""
        import torch

        features: dict[str, Any] = {}
        if samples is not None:
            mel, mask = processing.features([samples])
            features = {"input_features": torch.from_numpy(mel), "feature_attention_mask": torch.from_numpy(mask)}
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([[*prompt_ids, *token_ids]]), **features).logits[0]
        chosen = torch.log_softmax(logits[len(prompt_ids) - 1 : -1].float(), -1)
        return chosen[torch.arange(len(token_ids)), torch.tensor(token_ids)].numpy()
