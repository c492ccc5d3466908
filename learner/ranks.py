"""The learner's processes among themselves: rank 0 says what comes next, the others follow. Edge: torch, deepspeed.

Orders travel as bytes of msgpack in a tensor; nothing is pickled.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import torch
from torch import distributed
from torch.distributed import HashStore  # type: ignore[attr-defined]

from learner.collate import TrainingGroup
from protocol.messages import PolicyVersion

COLLECTIVE_TIMEOUT_S = 1800.0
"""Above anything that rank 0 does between two orders: it says `Wait` at least every few seconds while it waits."""


class Wait(msgspec.Struct, tag="wait"):
    """Nothing to do yet."""


class Train(msgspec.Struct, tag="train"):
    """Take optimiser step `step` on the batch; each rank takes every world-size-th group."""

    step: int
    batch: list[TrainingGroup]


class Publish(msgspec.Struct, tag="publish"):
    """Take part in gathering the weights of `version`."""

    version: PolicyVersion


class Save(msgspec.Struct, tag="save"):
    """Take part in gathering the weights for the checkpoint of `step`."""

    step: int


class Restore(msgspec.Struct, tag="restore"):
    """Take part in putting the weights and moments of a checkpoint back, or those that training began with; rank 0 has the files."""

    from_start: bool
    updates: int
    """Updates that Adam had made by then."""


class End(msgspec.Struct, tag="end"):
    """Leave."""

    reason: str


Order = Wait | Train | Publish | Save | Restore | End
_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)


class Ranks:
    """The process group. With one rank every method is local.

    `master` is "host:port" of rank 0; empty, a single rank needs no port and several meet where torchrun's environment says.
    """

    def __init__(self, rank: int, world_size: int, master: str) -> None:
        self.rank, self.world_size = rank, world_size
        self.device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        alone = world_size == 1 and not master
        meeting: dict[str, Any] = {"store": HashStore()} if alone else {"init_method": f"tcp://{master}" if master else "env://"}
        timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
        distributed.init_process_group(backend, **meeting, rank=rank, world_size=world_size, timeout=timeout)

    def order(self, order: Order | None = None) -> Order:
        """Rank 0 gives an order to all; every rank returns it."""
        if self.world_size == 1:
            if order is None:
                raise ValueError("rank 0 has to give the order")
            return order
        payload = _ENCODER.encode(order) if self.rank == 0 else b""
        size = torch.tensor([len(payload)], dtype=torch.int64, device=self.device)
        distributed.broadcast(size, src=0)
        if self.rank == 0:
            content = torch.frombuffer(bytearray(payload), dtype=torch.uint8).to(self.device)
        else:
            content = torch.empty(int(size.item()), dtype=torch.uint8, device=self.device)
        distributed.broadcast(content, src=0)
        return _DECODER.decode(content.cpu().numpy().tobytes())

    def share(self, batch: list[TrainingGroup]) -> list[TrainingGroup]:
        """The groups of the batch that belong to this rank."""
        return batch[self.rank :: self.world_size]

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sum over all ranks."""
        if self.world_size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def close(self) -> None:
        """Leave the process group. Another run may follow in this process."""
        if not distributed.is_initialized():
            return
        import deepspeed.comm

        if deepspeed.comm.is_initialized():
            deepspeed.comm.destroy_process_group()
            deepspeed.comm.comm.cdb = None  # else the next engine would be given the group that is gone
        else:
            distributed.destroy_process_group()
