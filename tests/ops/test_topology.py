from __future__ import annotations

import inspect
import math
from pathlib import Path

import pytest

from actors.rewards.server import RewardServer
from configs import loader
from ops import plan, topology
from ops.rundir import RunDir
from protocol.role import RoleDescription
from protocol.weights.fetcher import NodeFetcher
from protocol.weights.store import WeightStore

MACHINE = plan.Machine(cpus=2, gpus=0, shared_memory_bytes=1 << 34)


def wired(nodes: list[str], *overrides: str) -> topology.Topology:
    config = loader.load("quickstart", list(overrides))
    return topology.lay_out(RunDir(Path("/runs/demo"), "demo-1"), plan.make(config, MACHINE), nodes, 2345, {"MARK": "1"})


def described(role: str, name: str, **endpoints: str) -> RoleDescription:
    return {"role": role, "id": name, "pid": 1, "host": "h", "endpoints": endpoints, "metrics_url": ""}


DESCRIBED = {
    "learner-0": described("learner", "learner-0", pairs="tcp://0.0.0.0:1"),
    "weight_store-0": described("weight_store", "weight_store-0", weights="tcp://0.0.0.0:2"),
    "fetcher-0": described("fetcher", "fetcher-0", fetcher="tcp://127.0.0.1:3"),
    "fetcher-1": described("fetcher", "fetcher-1", fetcher="tcp://127.0.0.1:4"),
    "reward-0": described("reward", "reward-0", rewards="http://0.0.0.0:5"),
}


def test_everything_fits_on_two_cpus() -> None:
    assert sum(spec.cpus for spec in wired(["10.0.0.1"], "rollout.actors=2").specs) <= 2


def test_the_order_follows_the_needs() -> None:
    needs = wired(["10.0.0.1"]).needs()
    assert needs["rollout-0"] == ("rollout", ["fetcher-0", "reward-0", "learner-0"])
    assert needs["fetcher-0"] == ("fetcher", ["weight_store-0"])
    assert needs["learner-0"] == ("learner", [])


@pytest.mark.parametrize(
    ("backend", "expected"),
    [("zmq", (False, 0, ())), ("delta", (True, 8, ())), ("nccl", (False, 0, ("-m", "actors.courier", "gloo")))],
)
def test_store_and_fetchers_agree_on_the_backend(backend: str, expected: tuple[bool, int, tuple[str, ...]]) -> None:
    wiring = wired(["10.0.0.1"], f"weights.backend={backend}", "weights.anchor_every=8", "weights.collective=gloo")
    places = dict.fromkeys(("weight_store-0", "fetcher-0"), ("10.0.0.1", 1))
    store, fetcher = (wiring.kwargs(name, DESCRIBED, places) for name in ("weight_store-0", "fetcher-0"))
    assert (store["deltas"], fetcher["anchor_every"], store["courier"]) == expected
    assert fetcher["courier"] == store["courier"]
    assert fetcher["metrics_bind"] == "127.0.0.1"
    there = wired(["10.0.0.1"], "network.bind=0.0.0.0", "network.insecure=true").kwargs("fetcher-0", DESCRIBED, places)
    assert (there["metrics_bind"], "bind" in there) == ("0.0.0.0", False), "Prometheus may be elsewhere; the actors are here"  # noqa: S104
    inspect.signature(WeightStore).bind(**store)
    inspect.signature(NodeFetcher).bind(**fetcher)


def test_by_nccl_all_machines_but_the_weight_stores_take_part() -> None:
    wiring = wired(["10.0.0.1", "10.0.0.2"], "weights.backend=nccl")
    places = {"weight_store-0": ("10.0.0.1", 1), "fetcher-0": ("10.0.0.1", 1), "fetcher-1": ("10.0.0.2", 1)}
    couriers = [wiring.kwargs(name, DESCRIBED, places)["courier"] for name in ("weight_store-0", "fetcher-0", "fetcher-1")]
    assert couriers == [("-m", "actors.courier", "nccl"), (), ("-m", "actors.courier", "nccl")]


def test_every_machine_has_a_fetcher_and_an_actor_uses_its_own() -> None:
    wiring = wired(["10.0.0.1", "10.0.0.2"], "rollout.actors=2")
    places = {"learner-0": ("10.0.0.1", 1), "weight_store-0": ("10.0.0.1", 1), "reward-0": ("10.0.0.2", 1)}
    places |= {"fetcher-0": ("10.0.0.1", 1), "fetcher-1": ("10.0.0.2", 1), "rollout-0": ("10.0.0.2", 1), "rollout-1": ("10.0.0.1", 1)}
    far, near = (wiring.kwargs(name, DESCRIBED, places) for name in ("rollout-0", "rollout-1"))
    assert (far["fetcher_endpoint"], near["fetcher_endpoint"]) == ("tcp://127.0.0.1:4", "tcp://127.0.0.1:3")
    assert far["learner_endpoint"] == "tcp://10.0.0.1:1"
    assert wiring.reward_urls(DESCRIBED, places) == ["http://10.0.0.2:5"]
    fetcher = wiring.kwargs("fetcher-1", DESCRIBED, places)
    assert (fetcher["store_endpoint"], fetcher["index"]) == ("tcp://10.0.0.1:2", 1)
    remote = next(spec for spec in wiring.specs if spec.id == "fetcher-1")
    assert remote.node == "10.0.0.2"
    assert remote.cleans == (Path("/dev/shm/rba-demo-1-fetched"),)


def test_a_server_that_comes_back_listens_where_it_was_known() -> None:
    wiring = wired(["10.0.0.1"])
    places = dict.fromkeys(DESCRIBED, ("10.0.0.1", 1))
    ports = {name: wiring.kwargs(name, DESCRIBED, places)["port"] for name in ("weight_store-0", "fetcher-0", "reward-0")}
    assert ports == {"weight_store-0": 2, "fetcher-0": 3, "reward-0": 5}
    assert wiring.kwargs("learner-0", DESCRIBED, places)["config"].network.pairs_port == 1
    first = wiring.kwargs("learner-0", {}, {})["config"]
    assert first.network.pairs_port == 0
    assert [
        wiring.kwargs("rollout-0", DESCRIBED, {**places, "rollout-0": ("10.0.0.1", 1)}, attempt)["incarnation"] for attempt in (0, 3)
    ] == [0, 3]


def test_one_that_joins_is_like_the_first_of_its_role() -> None:
    wiring = wired(["10.0.0.1"], "rollout.actors=2")
    more = wiring.grown("rollout-2")
    assert wiring.names() | {"rollout-2"} == more.names()
    like, new = more.spec("rollout-0"), more.spec("rollout-2")
    assert (new.factory, new.cpus, new.gpus, new.node) == (like.factory, like.cpus, like.gpus, None)
    assert (like.env["RBA_PROCESS"], new.env["RBA_PROCESS"]) == ("demo-1/rollout-0", "demo-1/rollout-2")
    wider = more.grown("fetcher-1", "10.0.0.7")
    assert (wider.fetcher_on("10.0.0.7"), wider.fetcher_on("10.0.0.8")) == ("fetcher-1", None)
    assert wider.spec("fetcher-1").cleans, "the supervisor cleans its own machine alone"


def test_what_reads_the_runs_folder_stays_beside_it_and_ranks_stay_together() -> None:
    specs = {spec.id: spec for spec in wired(["10.0.0.1", "10.0.0.2"], "learner.ranks=2").specs}
    assert specs["learner-0"].node == specs["weight_store-0"].node == "10.0.0.1"
    assert specs["learner-1"].node is None
    assert specs["learner-0"].group == specs["learner-1"].group == "learner"


def test_ranks_meet_where_they_can_reach_each_other() -> None:
    two = "learner.ranks=2"
    assert wired(["10.0.0.1"]).kwargs("learner-0", {}, {})["master"] == ""
    assert wired(["10.0.0.1"], two).kwargs("learner-0", {}, {})["master"] == "127.0.0.1:2345"
    assert wired(["10.0.0.1", "10.0.0.2"], two).kwargs("learner-0", {}, {})["master"] == "10.0.0.1:2345"


def test_servers_that_run_already_are_used_as_they_are() -> None:
    wiring = wired(["10.0.0.1"], "rewards.urls=[http://rewards:80]")
    assert not any(spec.role == "reward" for spec in wiring.specs)
    assert wiring.reward_urls({}, {}) == ["http://rewards:80"]


@pytest.mark.parametrize(
    ("endpoint", "reached"),
    [("tcp://0.0.0.0:5", "tcp://10.0.0.9:5"), ("tcp://127.0.0.1:5", "tcp://127.0.0.1:5"), ("http://0.0.0.0:5/x", "http://10.0.0.9:5/x")],
)
def test_an_endpoint_on_every_address_is_reached_by_its_machines(endpoint: str, reached: str) -> None:
    assert topology.reachable(endpoint, "10.0.0.9") == reached


def test_threads_and_the_mark_go_into_every_environment() -> None:
    for spec in wired(["10.0.0.1"]).specs:
        assert spec.env["OMP_NUM_THREADS"] == "1"
        assert spec.env["MARK"] == "1"


def test_whoever_listens_or_connects_is_told_where_the_keys_lie() -> None:
    wiring = wired(["10.0.0.1"], "network.keys=/etc/rba/keys", "network.bind=0.0.0.0")
    places = dict.fromkeys(DESCRIBED, ("10.0.0.1", 1)) | {"rollout-0": ("10.0.0.1", 1)}
    for name in ("weight_store-0", "fetcher-0"):
        assert wiring.kwargs(name, DESCRIBED, places)["keys"] == "/etc/rba/keys"
    for name in ("learner-0", "rollout-0"):
        assert wiring.kwargs(name, DESCRIBED, places)["config"].network.keys == "/etc/rba/keys"
    assert wired(["10.0.0.1"]).kwargs("weight_store-0", {}, {})["keys"] is None


def test_a_cluster_of_ones_own_has_room_for_all_actors_that_the_rule_may_add() -> None:
    few, many = (
        plan.make(loader.load("quickstart", [f"fleet.autoscale={flag}", "fleet.max_actors=9"]), MACHINE) for flag in ("false", "true")
    )
    assert few.ray_cpus == 2
    assert many.ray_cpus == math.ceil(many.cpus + 8 * 0.5)


def test_off_loopback_servers_and_actors_share_the_runs_token(tmp_path: Path) -> None:
    run = RunDir(tmp_path, "demo-1")
    token = lambda environment, *overrides: topology.reward_token(run, loader.load("quickstart", list(overrides)), environment)  # noqa: E731
    assert token({}) is None
    assert not run.reward_token.exists()
    away = ("network.bind=0.0.0.0", "network.insecure=true")
    made = token({}, *away)
    assert made == run.reward_token.read_text()
    assert run.reward_token.stat().st_mode & 0o777 == 0o600
    assert token({}, *away) == made, "a run that goes on keeps it"
    assert token({"RBA_REWARDS_TOKEN": "the-users-own-token"}, *away) == "the-users-own-token"
    assert token({}, *away, "rewards.urls=[http://rewards:80]") is None, "those servers do not know it"
    assert token({}, *away, "strategy=sft", "evaluation.score=false") is None
    config = loader.load("quickstart", [*away])
    wiring = topology.lay_out(run, plan.make(config, MACHINE), ["10.0.0.1"], 2345, {}, reward_token=made)
    places = dict.fromkeys([*DESCRIBED, "rollout-0"], ("10.0.0.1", 1))
    assert wiring.kwargs("reward-0", DESCRIBED, places)["token"] == made
    assert wiring.kwargs("rollout-0", DESCRIBED, places)["reward_token"] == made
    assert str(made) not in repr(wiring)
    inspect.signature(RewardServer).bind(**wiring.kwargs("reward-0", DESCRIBED, places))
