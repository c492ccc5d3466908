"""What a run would start, where, with which resources: decided before anything is started, and shown by `--dry-run`."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from configs.schema import RunConfig
from ops import memory
from ops.assets import model_path, provided
from protocol.errors import UserError

SHARES = {"learner": 0.5, "rollout": 0.5, "reward": 0.2, "weight_store": 0.05, "fetcher": 0.05}
"""CPUs that Ray books per process on a machine without GPUs. They say who is placed where; threads are limited by `cpu_threads`."""
GPU_SHARES = {"learner": 2.0, "rollout": 2.0, "reward": 1.0, "weight_store": 0.05, "fetcher": 0.05}
"""The same on machines with GPUs, which have dozens."""


@dataclass(frozen=True)
class Machine:
    """What this machine has."""

    cpus: int
    gpus: int
    shared_memory_bytes: int
    """Free."""

    @classmethod
    def here(cls) -> Machine:
        """As the operating system says."""
        gpus = len([device for device in Path("/dev").glob("nvidia[0-9]*") if device.name[6:].isdigit()])
        shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0  # noqa: S108
        return cls(os.cpu_count() or 1, gpus, shared)


@dataclass(frozen=True)
class ProcessPlan:
    """One process."""

    id: str
    role: str
    index: int
    cpus: float
    gpus: float
    env: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """Everything that a run would start."""

    config: RunConfig
    machine: Machine
    processes: list[ProcessPlan]
    warnings: list[str]

    @property
    def cpus(self) -> float:
        """That Ray books in all."""
        return sum(process.cpus for process in self.processes)

    @property
    def gpus(self) -> float:
        """In all."""
        return sum(process.gpus for process in self.processes)

    @property
    def ray_cpus(self) -> int:
        """CPUs to offer when Ray is started on this machine."""
        actor = next(process for process in self.processes if process.role == "rollout")
        more = max(0, self.config.fleet.max_actors - self.config.rollout.actors) if self.config.fleet.autoscale else 0
        more += self.config.fleet.spare_actors
        return self.config.ray.num_cpus or max(self.machine.cpus, math.ceil(self.cpus + more * actor.cpus))


def make(config: RunConfig, machine: Machine) -> Plan:
    """The processes of `config`: one weight store, one fetcher a machine, reward servers, learner ranks, rollout actors."""
    processes = list(_processes(config, machine))
    plan = Plan(config, machine, processes, [])
    plan.warnings.extend(_warnings(plan))
    return plan


def uses_gpus(config: RunConfig, machine: Machine) -> bool:
    """True when the run's processes get GPUs: this machine has some, or the configuration asks for them."""
    return machine.gpus > 0 or bool(config.rollout.gpus) or bool(config.rewards.gpus)


def describe(plan: Plan) -> list[tuple[str, list[tuple[str, str]]]]:
    """The plan for people: (heading, [(name, value)])."""
    return [
        ("processes", _process_rows(plan)),
        ("ports", _port_rows(plan.config)),
        ("staleness", _staleness_rows(plan.config)),
        ("memory (without activations)", _memory_rows(plan)),
    ]


def _processes(config: RunConfig, machine: Machine) -> Iterator[ProcessPlan]:
    gpu = uses_gpus(config, machine)
    shares = GPU_SHARES if gpu else SHARES

    def process(role: str, index: int, gpus: float = 0.0, threads: int = 1) -> ProcessPlan:
        env = {"TOKENIZERS_PARALLELISM": "false", **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
        if role == "learner" and not gpu:
            env["DS_ACCELERATOR"] = "cpu"
        return ProcessPlan(f"{role}-{index}", role, index, shares[role], gpus, env)

    yield process("weight_store", 0)
    yield process("fetcher", 0)
    if config.serves_rewards:
        per_server = float(gpu) if config.rewards.models else 0.0
        for index in range(config.rewards.servers):
            gpus = config.rewards.gpus if config.rewards.gpus is not None else per_server
            yield process("reward", index, gpus, config.rewards.cpu_threads)
    for index in range(config.learner.ranks):
        yield process("learner", index, float(gpu), config.learner.cpu_threads)
    for index in range(config.rollout.actors):
        per_actor = float(config.rollout.engine.tensor_parallel_size) if gpu else 0.0
        yield process("rollout", index, config.rollout.gpus if config.rollout.gpus is not None else per_actor, config.rollout.cpu_threads)


def _warnings(plan: Plan) -> Iterator[str]:
    config, machine = plan.config, plan.machine
    local = config.ray.address is None
    if local and config.ray.num_cpus is not None and config.ray.num_cpus < plan.cpus:
        yield f"ray.num_cpus={config.ray.num_cpus} is less than the {plan.cpus:g} CPUs that the processes book: some would wait for ever"
    if local and plan.gpus > machine.gpus:
        yield f"the run needs {plan.gpus:g} GPUs and this machine has {machine.gpus}: start it there, or set ray.address to a cluster"
    if local and config.weights.backend == "nccl" and config.weights.collective == "nccl":
        yield "weights.backend=nccl has nobody to broadcast to on one machine: versions are pulled, as with zmq"
    held = config.rollout.actors * config.rollout.capacity_groups
    if held > config.budget_groups:
        yield (
            f"the actors could hold {held} groups, but the bound on staleness allows {config.budget_groups}: "
            "some will idle (raise learner.max_policy_lag or learner.batch_groups, or lower rollout.capacity_groups)"
        )
    size = memory.model_size(_local(config.model.path))
    if local and size is not None and 4 * memory.version_bytes(size, config) > machine.shared_memory_bytes:
        yield (
            f"four policy versions take {memory.human(4 * memory.version_bytes(size, config))} of shared memory, "
            f"and /dev/shm has {memory.human(machine.shared_memory_bytes)} free"
        )


def _process_rows(plan: Plan) -> list[tuple[str, str]]:
    names = {
        "weight_store": "serves policy versions",
        "fetcher": "one a machine, brings them",
        "reward": "scores",
        "learner": "trains",
        "rollout": "samples",
    }
    rows = []
    for role, what in names.items():
        members = [process for process in plan.processes if process.role == role]
        if members:
            gpus = f", {members[0].gpus:g} GPU{'s' if members[0].gpus != 1 else ''}" if members[0].gpus else ""
            rows.append((role, f"{len(members)} × ({members[0].cpus:g} CPU{gpus})   {what}"))
        elif role == "reward":
            urls = plan.config.rewards.urls
            rows.append((role, f"none started, uses {', '.join(urls)}" if urls else "none: nothing in this run needs scores"))
    where = (
        f"the cluster at {plan.config.ray.address}"
        if plan.config.ray.address
        else f"Ray, started on this machine with {plan.ray_cpus} CPUs"
    )
    if plan.config.fleet.spare_actors:
        rows.append(("spares", f"{plan.config.fleet.spare_actors} × a rollout actor more, once everything runs"))
    return [*rows, ("in all", f"{plan.cpus:g} CPUs, {plan.gpus:g} GPUs on {where}")]


def _port_rows(config: RunConfig) -> list[tuple[str, str]]:
    network = config.network
    ports = {"pairs": network.pairs_port, "weights": network.weights_port}
    rows = [(name, f"{network.bind}:{port or 'any free port'}") for name, port in ports.items()]
    return [
        *rows,
        ("control", f"127.0.0.1:{network.control_port or 'any free port'}"),
        ("metrics", "one free port a process, listed at /v1/targets"),
    ]


def _staleness_rows(config: RunConfig) -> list[tuple[str, str]]:
    learner = config.learner
    return [
        ("max_policy_lag", f"{learner.max_policy_lag} steps; a version is published every {learner.publish_every}"),
        (
            "budget_groups",
            f"{config.budget_groups} groups leased, queued and in training = ({learner.max_policy_lag} + 1) × {learner.batch_groups}",
        ),
        ("in all", f"{learner.steps} steps × {learner.batch_groups} groups = {learner.steps * learner.batch_groups} groups"),
    ]


def _memory_rows(plan: Plan) -> list[tuple[str, str]]:
    config = plan.config
    size = memory.model_size(_local(config.model.path))
    if size is None:
        return [("model", f"{config.model.path}: not here, and no known name, so no estimate")]
    rank, engine = memory.learner_memory(size, config), config.rollout.engine
    parts = [("weights", rank.weights), ("gradients", rank.gradients), ("optimizer", rank.optimizer), ("reference", rank.reference)]
    listed = " + ".join(f"{memory.human(value)} {name}" for name, value in parts if value)
    on_gpu = uses_gpus(config, plan.machine)
    cache = (
        f"KV cache up to {engine.gpu_memory_utilization:.0%} of the GPU" if on_gpu else f"{memory.human(engine.cpu_kvcache_bytes)} KV cache"
    )
    rows = [
        ("model", f"{_millions(size.total)} parameters ({_millions(size.audio_tower)} in the audio tower)"),
        ("learner rank", f"{memory.human(rank.total)} = {listed} (ZeRO {config.learner.zero_stage} over {config.learner.ranks})"),
        ("rollout actor", f"{memory.human(memory.actor_weights_bytes(size, config))} weights + {cache}"),
        (
            "shared memory",
            f"{memory.human(2 * memory.version_bytes(size, config))} at the learner and again at each actor machine (two versions)",
        ),
    ]
    sizes = [memory.model_size(_local(name)) for name in config.rewards.models.values()] if config.serves_rewards else []
    if known := [size.total for size in sizes if size is not None]:
        rows.append(("reward server", f"{memory.human(sum(known) * (2 if on_gpu else 4))} weights"))
    return rows


def _local(name: str) -> str:
    """The folder of a provider's checkpoint, which it only has to look up; other names, and one that is missing, as they are."""
    if provided(name) is None:
        return name
    try:
        return str(model_path(name, "model"))
    except UserError:
        return name


def _millions(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"
