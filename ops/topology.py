"""Who needs whom, and what each role is told when it is built: the wiring of a run, without processes.

weight_store ◀── fetcher (one a machine) ◀── rollout ──▶ learner
                                                └──────▶ reward
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from actors.rewards import bearer
from configs.schema import RunConfig
from ops import guard
from ops.plan import Plan
from ops.resume import Origin
from ops.rundir import RunDir
from ops.workers import WorkerSpec
from protocol.role import RoleDescription

FACTORIES = {
    "weight_store": "protocol.weights.store:WeightStore",
    "fetcher": "protocol.weights.fetcher:NodeFetcher",
    "reward": "actors.rewards.server:RewardServer",
    "learner": "learner.main:Learner",
    "rollout": "actors.rollout.main:RolloutActor",
}
COURIER = "actors.courier"
SLOW_IMPORTS = {"learner", "rollout"}
"""Roles whose modules take seconds to import."""
AFRESH = Origin()
ANYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - compared with, not bound


@dataclass(frozen=True)
class Topology:
    """A run's processes on the machines of its cluster. `nodes` are their IP addresses, the supervisor's own first."""

    run: RunDir
    config: RunConfig
    specs: list[WorkerSpec]
    nodes: Sequence[str]
    master_port: int
    """Where the learner's ranks meet."""
    origin: Origin = AFRESH
    """What the run goes on from."""
    reward_token: str | None = field(default=None, repr=False)
    """What actors show to reward servers."""

    def needs(self) -> dict[str, tuple[str, list[str]]]:
        """Of each process: its role, and the processes that must be built before it."""
        by_role = {role: [spec.id for spec in self.specs if spec.role == role] for role in FACTORIES}
        required = {"fetcher": by_role["weight_store"], "rollout": [*by_role["fetcher"], *by_role["reward"], "learner-0"]}
        return {spec.id: (spec.role, required.get(spec.role, [])) for spec in self.specs}

    def names(self) -> set[str]:
        """Ids of all processes."""
        return {spec.id for spec in self.specs}

    def grown(self, name: str, node: str | None = None) -> Topology:
        """With one more process, like the first one of its role; on a certain machine when `node` says so."""
        role = name.rpartition("-")[0]
        like = self.spec(f"{role}-0")
        env = {**like.env, guard.PROCESS: f"{self.run.run_id}/{name}"}
        cleans = (self.run.shared_memory("fetched"),) if role == "fetcher" else ()
        return replace(self, specs=[*self.specs, replace(like, id=name, env=env, node=node, cleans=cleans)])

    def fetcher_on(self, node: str) -> str | None:
        """The fetcher of a machine."""
        return next((spec.id for spec in self.specs if spec.role == "fetcher" and spec.node == node), None)

    def spec(self, name: str) -> WorkerSpec:
        """Of one process."""
        return next(spec for spec in self.specs if spec.id == name)

    def kwargs(
        self, name: str, described: Mapping[str, RoleDescription], places: Mapping[str, tuple[str, int]], attempt: int = 0
    ) -> dict[str, Any]:
        """The constructor's arguments of one process, when all that it needs is described. `places`: (IP address, pid) of each.

        Without those that may change while it runs (see `ops.hands`).
        A server that was described before listens where it listened then, for the others know it by that.
        """
        spec = self.spec(name)
        index = int(name.rpartition("-")[2])
        network = self.config.network

        def endpoint(other: str, socket: str) -> str:
            return reachable(described[other]["endpoints"][socket], places[other][0])

        def port(socket: str, first: int = 0) -> int:
            known = described[name]["endpoints"].get(socket) if name in described else None
            return urlsplit(known).port or first if known else first

        match spec.role:
            case "weight_store":
                return self._store(port("weights", network.weights_port))
            case "fetcher":
                return self._fetcher(spec, index, endpoint("weight_store-0", "weights"), port("fetcher"))
            case "reward":
                section, run_dir, token = self.config.rewards, self.run.path, self.reward_token
                listening = {"bind": network.bind, "port": port("rewards")}
                return {"section": section, "run_dir": run_dir, "index": index, "token": token, **listening}
            case "learner":
                return self._learner(index, port("pairs", network.pairs_port))
            case "rollout":
                return {
                    "config": self.config,
                    "index": index,
                    "incarnation": attempt,
                    "learner_endpoint": endpoint("learner-0", "pairs"),
                    "fetcher_endpoint": described[self._fetcher_beside(name, places)]["endpoints"]["fetcher"],
                    "run_dir": self.run.path,
                    "reward_token": self.reward_token,
                }
        raise AssertionError(spec.role)

    def _store(self, port: int) -> dict[str, Any]:
        network = self.config.network
        return {
            "root": self.run.shared_memory("published"),
            "bind": network.bind,
            "port": port,
            "run_dir": self.run.path,
            "keys": network.keys,
            "deltas": self.config.weights.backend == "delta",
            "courier": self._courier(),
        }

    def _fetcher(self, spec: WorkerSpec, index: int, store_endpoint: str, port: int) -> dict[str, Any]:
        weights = self.config.weights
        return {
            "store_endpoint": store_endpoint,
            "root": self.run.shared_memory("fetched"),
            "port": port,
            "run_dir": self.run.path,
            "index": index,
            "keys": self.config.network.keys,
            "anchor_every": weights.anchor_every if weights.backend == "delta" else 0,
            "courier": self._courier(beside_store=spec.node == self.nodes[0]),
            "metrics_bind": self.config.network.bind,
        }

    def _learner(self, rank: int, pairs_port: int) -> dict[str, Any]:
        network = self.config.network.model_copy(update={"pairs_port": pairs_port})
        return {
            "config": self.config.model_copy(update={"network": network}),
            "run_dir": self.run.path,
            "weights_root": self.run.shared_memory("published"),
            "rank": rank,
            "world_size": self.config.learner.ranks,
            "lineage": self.origin.lineage,
            "checkpoint": self.origin.checkpoint,
            "salvage": self.origin.salvage,
            "master": self._meeting(),
        }

    def _courier(self, *, beside_store: bool = False) -> tuple[str, ...]:
        """The command of a process that broadcasts versions; none where they are pulled, as they are beside the weight store by NCCL, which
        takes no two ranks on one GPU.
        """
        weights = self.config.weights
        if weights.backend != "nccl" or (beside_store and weights.collective == "nccl"):
            return ()
        return ("-m", COURIER, weights.collective)

    def reward_urls(self, described: Mapping[str, RoleDescription], places: Mapping[str, tuple[str, int]]) -> list[str]:
        """Where actors find the reward servers that are described, or those that run already."""
        servers = sorted(name for name in described if name.startswith("reward-"))
        return self.config.rewards.urls or [reachable(described[name]["endpoints"]["rewards"], places[name][0]) for name in servers]

    def _meeting(self) -> str:
        """Where the learner's ranks meet; a single one meets nobody."""
        if self.config.learner.ranks == 1:
            return ""
        return f"{self.nodes[0] if len(self.nodes) > 1 else '127.0.0.1'}:{self.master_port}"

    def _fetcher_beside(self, name: str, places: Mapping[str, tuple[str, int]]) -> str:
        machine = places[name][0]
        return next(spec.id for spec in self.specs if spec.role == "fetcher" and spec.node == machine)


def lay_out(
    run: RunDir,
    plan: Plan,
    nodes: Sequence[str],
    master_port: int,
    mark: Mapping[str, str],
    origin: Origin = AFRESH,
    reward_token: str | None = None,
) -> Topology:
    """The plan's processes as workers: one fetcher a machine, the learner's ranks together, what reads the run's folder beside it.

    `mark` goes into the environment of each.
    """
    specs = []
    for process in plan.processes:
        here = process.role == "weight_store" or process.id == "learner-0"
        for copy, node in enumerate(nodes if process.role == "fetcher" else [nodes[0] if here else None]):
            name = f"fetcher-{copy}" if process.role == "fetcher" else process.id
            specs.append(
                WorkerSpec(
                    id=name,
                    role=process.role,
                    factory=FACTORIES[process.role],
                    cpus=process.cpus,
                    gpus=process.gpus,
                    env={**process.env, **mark, guard.PROCESS: f"{run.run_id}/{name}"},
                    node=node,
                    group="learner" if process.role == "learner" else None,
                    cleans=(run.shared_memory("fetched"),) if process.role == "fetcher" and copy else (),
                )
            )
    return Topology(run, plan.config, specs, nodes, master_port, origin, reward_token)


def reachable(endpoint: str, host: str) -> str:
    """`endpoint` as other machines reach it: a socket that listens on every address is named by its machine's."""
    parts = urlsplit(endpoint)
    if parts.hostname not in ANYWHERE:
        return endpoint
    return urlunsplit(parts._replace(netloc=f"{host}:{parts.port}"))


def reward_token(run: RunDir, config: RunConfig, environment: Mapping[str, str]) -> str | None:
    """The user's own token; else the run's, for its own servers off loopback, whatever else the user trusts. Raises `UserError`."""
    if not config.uses_rewards:
        return None
    token = bearer.read(config.rewards.token_file, environment)
    if token is None and config.network.leaves_the_machine and not config.rewards.urls:
        token = bearer.keep(run.reward_token)
    return token
