"""Low-rank adapters, and the weights as a policy version shows them: adapters merged in. Edge: torch, peft.

A weight W of shape ``[out, in]`` with adapters is W + (α/r) B A, of which A ``[r, in]`` and B ``[out, r]`` are trained and W is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from configs.training import LoraSection
from policies.adapter import Adapter
from protocol.errors import UserError

ADAPTER = "default"
"""peft's name for the one set of adapters."""
BASE = ".base_layer"
"""In the name of a parameter that has adapters, where peft moves it to."""


class Weight(NamedTuple):
    """One tensor of the released checkpoint."""

    parameter_name: str
    """In memory, of W."""
    parameters: list[nn.Parameter]
    """That it is made of, all of which `read` needs whole."""
    read: Callable[[], Tensor]

    @property
    def is_trained(self) -> bool:
        """True when it changes from version to version."""
        return any(parameter.requires_grad for parameter in self.parameters)


def inject(model: nn.Module, section: LoraSection, family: Adapter, seed: int) -> None:
    """Give the linear layers of the language model that `section` names adapters, and freeze everything else.

    B starts at zero, so that the model is as it was. Raises `UserError` when nothing has such a name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    audio = {id(parameter) for parameter in family.audio_parameters(model)}
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in section.target_modules and id(module.weight) not in audio
    ]
    if not targets:
        named = sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)})
        raise UserError(
            f"the model has no linear layer of these names: {', '.join(section.target_modules)}",
            where="learner.lora.target_modules",
            fix=f"choose from {', '.join(named)}",
        )
    torch.manual_seed(seed)  # every rank, and every life of the run, starts from the same A
    options: dict[str, Any] = {"r": section.r, "lora_alpha": section.lora_alpha, "lora_dropout": section.lora_dropout}
    inject_adapter_in_model(LoraConfig(target_modules=targets, **options), model, ADAPTER)


@contextmanager
def without(model: nn.Module) -> Iterator[None]:
    """The model as it was before `inject`."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def weights(model: nn.Module) -> Iterator[Weight]:
    """Every tensor of the released checkpoint, adapters merged in."""
    for name, parameter in model.named_parameters():
        if name.endswith(f"{BASE}.weight"):
            layer: Any = model.get_submodule(name.removesuffix(f"{BASE}.weight"))
            a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            yield Weight(name, [parameter, a, b], _merged(parameter, a, b, layer.scaling[ADAPTER]))
        elif not is_adapter(name):
            yield Weight(name, [parameter], parameter.detach)


def is_adapter(name: str) -> bool:
    """True for A and B."""
    return f".lora_A.{ADAPTER}." in name or f".lora_B.{ADAPTER}." in name


def _merged(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Callable[[], Tensor]:
    def read() -> Tensor:
        return weight.detach().float() + scaling * (b.detach().float() @ a.detach().float())

    return read
