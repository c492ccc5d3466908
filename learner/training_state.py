"""What the optimiser knows, tensor by tensor: float32 weights and Adam's moments. Edge: torch, deepspeed, safetensors.

Tensors are whole and go by their released names, so a run may go on with another ZeRO stage or another number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor, distributed, nn

from learner.ranks import Ranks
from policies.checkpoint import save_tensors

WEIGHTS = "weights"
KINDS = (WEIGHTS, "exp_avg", "exp_avg_sq")
SHARD_BYTES = 4 << 30


class Tensors(Protocol):
    """Where weights and moments come from."""

    def read(self, name: str, shape: Iterable[int]) -> Tensor:
        """``KIND/NAME`` as a whole float32 tensor of that shape. A collective."""
        ...


class TrainingState:
    """Reaches into DeepSpeed's optimiser, wherever the ZeRO stage keeps weights and moments."""

    def __init__(self, optimizer: Any, parameters: Iterable[tuple[str, nn.Parameter]], rank: int) -> None:
        """`parameters` by released name. Those that are not trained have no state."""
        self._optimizer, self._rank = optimizer, rank
        self._inner = getattr(optimizer, "optimizer", optimizer)
        self._parameters = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
        self._master_of: dict[int, Tensor] = {}
        """Float32 copies that go with a parameter one to one (bfloat16 without ZeRO)."""
        if hasattr(optimizer, "fp32_groups"):
            for half, whole in zip(chain(*optimizer.fp16_groups), chain(*optimizer.fp32_groups), strict=True):
                self._master_of[id(half)] = whole
        for state in self._inner.state.values():  # bfloat16 without ZeRO makes it by an update of nothing, which Adam has counted
            state["step"].zero_()

    @property
    def updates(self) -> int:
        """Updates that Adam has made, skipped steps left out."""
        return int(next((float(state["step"]) for state in self._inner.state.values()), 0.0))

    def gathered(self) -> Iterator[tuple[str, Tensor]]:
        """``KIND/NAME`` and float32 tensor of every trained parameter, on the CPU. A collective: all ranks iterate to the end."""
        self._prepare()
        for name, parameter in self._parameters:
            for kind in KINDS:
                yield f"{kind}/{name}", self._get(parameter, kind).to(device="cpu", dtype=torch.float32, copy=True)

    def restore(self, saved: Tensors, updates: int) -> None:
        """Put saved tensors in place of the current ones, as they were after `updates` updates. A collective."""
        self._prepare()
        for name, parameter in self._parameters:
            for kind in KINDS:
                self._put(parameter, kind, saved.read(f"{kind}/{name}", getattr(parameter, "ds_shape", parameter.shape)))
        for state in self._inner.state.values():
            state["step"] = torch.full_like(state["step"], float(updates))
        self._hand_down()

    def _hand_down(self) -> None:
        """Make forward and backward see the float32 weights, the way each update does at its end. A collective."""
        optimizer = self._optimizer
        if hasattr(optimizer, "fp16_partitioned_groups_flat"):  # stage 3; what is gathered must go first, or it would stay as it is
            optimizer._partition_all_parameters()  # noqa: SLF001 - as its step does; so are the next two
            for number in range(len(optimizer.fp16_groups)):
                optimizer._reassign_or_swap_out_partitioned_parameters(number)  # noqa: SLF001
            optimizer._post_step(set())  # noqa: SLF001
        elif hasattr(optimizer, "update_lp_params"):  # stages 1 and 2
            optimizer.update_lp_params()
        for _, parameter in self._parameters:
            if id(parameter) in self._master_of:
                parameter.data.copy_(self._master_of[id(parameter)])

    def _get(self, parameter: nn.Parameter, kind: str) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if not _is_partitioned(parameter):
            return self._whole(parameter, kind)
        found: Tensor = safe_get_full_fp32_param(parameter) if kind == WEIGHTS else safe_get_full_optimizer_state(parameter, kind)
        return found

    def _put(self, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
        from deepspeed import utils

        if not _is_partitioned(parameter):
            self._whole(parameter, kind).copy_(value)
        elif hasattr(parameter, "ds_id"):
            # DeepSpeed's setter of whole tensors reads past the end of one whose size is no multiple of the number of ranks
            share: Any = parameter
            part = _part(value, share.ds_tensor.numel(), self._rank)
            if kind == WEIGHTS:
                utils.safe_set_local_fp32_param(parameter, part)
            else:
                utils.safe_set_local_optimizer_state(parameter, part, kind)
        elif kind == WEIGHTS:
            utils.safe_set_full_fp32_param(parameter, value)
        else:
            utils.safe_set_full_optimizer_state(parameter, value, kind)

    def _whole(self, parameter: nn.Parameter, kind: str) -> Tensor:
        master = self._master_of.get(id(parameter), parameter)
        tensor: Tensor = master.detach() if kind == WEIGHTS else self._inner.state[master][kind]
        return tensor

    def _prepare(self) -> None:
        """Make Adam's state where it is not there yet; it would be made, just so, with the first update."""
        for flat in self._updated():
            if not self._inner.state[flat]:
                self._inner.state[flat] = {"step": torch.zeros((), dtype=torch.float32, device=flat.device)}
                self._inner.state[flat] |= {kind: torch.zeros_like(flat) for kind in KINDS[1:]}
        if hasattr(self._optimizer, "_lazy_init_hp_params_optimizer_state"):  # stages 1 and 2: parameters learn of their state
            self._optimizer._lazy_init_hp_params_optimizer_state()  # noqa: SLF001 - what its first step does

    def _updated(self) -> list[Tensor]:
        """What the inner optimiser updates: under ZeRO this rank's partitions, which are taken out of its groups between steps."""
        for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
            if hasattr(self._optimizer, name):
                return list(getattr(self._optimizer, name))
        return [parameter for group in self._inner.param_groups for parameter in group["params"]]


def _is_partitioned(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")  # which is None where all of it is another rank's


def _part(value: Tensor, size: int, rank: int) -> Tensor:
    """A rank's share of a flat tensor, the last one filled up with zeros."""
    part = value.new_zeros(size)
    own = value.flatten()[rank * size : (rank + 1) * size]
    part[: len(own)] = own
    return part


class SavedTensors:
    """The tensors of a checkpoint. Rank 0 has the files, every rank gets each tensor."""

    def __init__(self, folder: Path | None, ranks: Ranks) -> None:
        """Only rank 0 has to know the folder."""
        self._ranks = ranks
        paths = sorted(folder.glob("*.safetensors")) if folder is not None and ranks.rank == 0 else []
        files: list[Any] = [safe_open(path, framework="pt") for path in paths]
        self._file_of = {name: file for file in files for name in file.keys()}  # noqa: SIM118 - no mapping

    def read(self, name: str, shape: Iterable[int]) -> Tensor:
        """One tensor, float32, on the rank's device. A collective. Raises `KeyError` on rank 0 for a name that is not there."""
        device = self._ranks.device
        if self._ranks.rank == 0:
            tensor: Tensor = self._file_of[name].get_tensor(name).to(device)
        else:
            tensor = torch.empty(tuple(shape), dtype=torch.float32, device=device)
        if self._ranks.world_size > 1:
            distributed.broadcast(tensor, src=0)
        return tensor


class StartTensors:
    """A model that nobody has trained yet, as if it had been saved: its weights, and moments of nothing. Every rank has it."""

    def __init__(self, weights: Mapping[str, Tensor], device: torch.device) -> None:
        """`weights` by released name."""
        self._weights, self._device = weights, device

    def read(self, name: str, shape: Iterable[int]) -> Tensor:
        """One tensor, float32, on the rank's device."""
        kind, _, own = name.partition("/")
        if kind == WEIGHTS:
            return self._weights[own].to(self._device, torch.float32)
        return torch.zeros(tuple(shape), dtype=torch.float32, device=self._device)


def write(folder: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write the tensors as safetensors files of at most `SHARD_BYTES`."""
    folder.mkdir(parents=True, exist_ok=True)
    shard: dict[str, Tensor] = {}
    count = 0
    for name, tensor in tensors:
        if shard and sum(each.nbytes for each in shard.values()) + tensor.nbytes > SHARD_BYTES:
            save_tensors(shard, folder / f"optimizer-{count:05d}.safetensors")
            shard, count = {}, count + 1
        shard[name] = tensor.contiguous()
    save_tensors(shard, folder / f"optimizer-{count:05d}.safetensors")
