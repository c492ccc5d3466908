"""Where a run's processes live: sockets, the way of the weights, Ray, the fleet."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.section import NonNegativeFloat, NonNegativeInt, Port, PositiveFloat, PositiveInt, Section


class NetworkSection(Section):
    """Where the run's sockets listen. Port 0 takes a free one."""

    changeable = frozenset({"*"})

    bind: str = "127.0.0.1"
    """Address that the sockets bind to; anything but loopback needs `keys` or `insecure`."""
    keys: str | None = None
    """Folder of CURVE keys, at the same path on each machine: the ZeroMQ sockets then take messages of allowed keys alone. What the
    launching machine lacks is made at the launch; see docs/security.md for the others."""
    pairs_port: Port = 0
    weights_port: Port = 0
    control_port: Port = 0
    insecure: bool = False
    """Allow binding off loopback without keys, and a Ray cluster without a token: anyone who reaches the ports can then feed the learner,
    and run programs."""
    chunk_bytes: Annotated[int, Field(ge=4096, le=4 << 20)] = 4 << 20
    """Size of a weight chunk."""

    @property
    def leaves_the_machine(self) -> bool:
        """True when the sockets listen to other machines too."""
        return self.bind not in {"127.0.0.1", "::1", "localhost"}


class WeightsSection(Section):
    """How policy versions get from the learner to the rollout actors."""

    changeable = frozenset({"*"})

    backend: Literal["zmq", "delta", "nccl"] = "zmq"
    """`zmq`: every version whole; `delta`: what changed since the version that a machine holds, with the same weights as a result, bit for
    bit. It pays on networks slower than some 10 Gbit/s, with `model.dtype: bfloat16` and small learning rates. `nccl`: by one broadcast to
    all machines of a fixed fleet, by `zmq` to those that miss it; every machine needs a GPU, on which it takes a few hundred MB."""
    anchor_every: PositiveInt = 16
    """Of so many versions in a row a machine takes one whole (`delta` only)."""
    collective: Literal["nccl", "gloo"] = "nccl"
    """What broadcasts (`nccl` only): NCCL between GPUs, or gloo between machines without any."""
    in_clear: bool = False
    """Allow broadcasts off loopback: NCCL and gloo know neither keys nor encryption, so whoever reaches that network can read the weights,
    and put others in their place (`nccl` only)."""


class RaySection(Section):
    """The Ray cluster that the processes run on."""

    changeable = frozenset({"*"})

    address: str | None = None
    """Address of a running cluster; by default one is started on this machine for the run."""
    num_cpus: PositiveInt | None = None
    """CPUs to offer when one is started; by default all."""


class FleetSection(Section):
    """How processes come back that fail while the run goes on, and how many rollout actors there are."""

    changeable = frozenset({"*"})

    restarts: NonNegativeInt = 3
    """Times that one rollout actor, server or fetcher is started again within `restart_window_s`; then it is quarantined."""
    restart_window_s: PositiveFloat = 1800.0
    restart_wait_s: PositiveFloat = 1.0
    """Longest first pause before a restart; each further one is twice as long, up to a minute, less a random part of up to a half."""
    learner_restarts: NonNegativeInt = 1
    """Times in a run that the learner, all ranks together, is started again from the last checkpoint."""
    hang_timeout_s: PositiveFloat = 300.0
    """A process that lives and neither answers nor gets on with its work for so long is ended and started again."""
    learner_hang_timeout_s: PositiveFloat = 1800.0
    """The same for the learner, whose steps and checkpoints may be long."""
    start_timeout_s: PositiveFloat = 1800.0
    """The same for a process that is built, or that starts its engine."""
    drain_s: PositiveFloat = 30.0
    """A rollout actor that leaves, for a smaller fleet or after `rba stop`, has so long to finish the groups that it samples; what it has
    not begun is leased to others at once, what it does not finish then."""
    spare_actors: NonNegativeInt = 0
    """Rollout actors beyond those that work, with their engine loaded and the latest policy version in it; one takes over at once when
    another one fails."""
    autoscale: bool = False
    """Let the number of rollout actors follow the learner, between `min_actors` and `max_actors`."""
    min_actors: PositiveInt = 1
    max_actors: PositiveInt = 8
    learner_idle: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of its time that the learner may wait for results; above it an actor joins, below half of it one may leave."""
    queue_batches: PositiveFloat = 1.0
    """Batches of results that may wait for the learner; an actor leaves when there are always as many."""
    autoscale_window_s: PositiveFloat = 60.0
    """Both are looked at over this time."""
    autoscale_pause_s: NonNegativeFloat = 180.0
    """Time between two changes."""

    @model_validator(mode="after")
    def bounds_are_in_order(self) -> Self:
        """Refuse bounds that leave no number between them."""
        if self.min_actors > self.max_actors:
            raise ValueError(f"fleet.min_actors ({self.min_actors}) is above fleet.max_actors ({self.max_actors})")
        return self
