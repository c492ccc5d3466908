"""The status on one screen, and the same in plain lines."""

from __future__ import annotations

import io
import json
import re
import time
from typing import Any

import pytest
from rich.console import Console

from benchmarks.watched import Watched
from ops import live, telling
from ops.orders import Phase
from ops.screen import Screen
from protocol.errors import RbaError


def seen(actors: int, rewards: int = 1) -> tuple[Watched, dict[str, Any]]:
    watched = Watched(actors, rewards)
    began_s = time.monotonic() - 40
    for second in range(41):
        watched.answer(float(second), began_s + second)
        watched.overview.measure(began_s + second)
    return watched, json.loads(json.dumps(watched.overview.status()))


def drawn(status: dict[str, Any], width: int = 100, height: int = 40, *, whole: bool = False) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(Screen(status, whole=whole))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text.rstrip("\n").split("\n")


EVERYTHING = (
    "training", "step 41/130", "32%", "elapsed", "eta", "version 0.41", "pairs/s", "tokens/s", "lag 1.2",
    "learner 3% (pairs 3%)", "actors 41% (leases 38%, weights 3%)",
    "the learner: busy 95% of its time, actors wait 38% for leases",
    "reward", "0.412", "consistency", "0.700", "▄▄▄▄",
    "leased 350 = settled 330 + outstanding 16 + expired 4",
    "received 332 = unique 330 + duplicate 2 + rejected 0",
    "unique 330 = trained 320 + dropped 4 + queued 6",
    "step 40, 1:02 ago", "12.3 MB", "120 GB",
)  # fmt: skip


def test_eight_actors_and_all_else_fit_a_screen_of_100_by_40() -> None:
    _, status = seen(actors=8)
    lines = drawn(status)
    text = "\n".join(lines)
    assert len(lines) <= 40
    assert all(len(line) <= 100 for line in lines)
    assert [part for part in EVERYTHING if part not in text] == []
    for process in status["processes"]:
        assert process["id"] in text
    assert "…" not in text
    assert " more" not in text
    assert "alerts      none" in text


@pytest.mark.parametrize(("width", "height", "actors"), [(80, 24, 2), (80, 24, 128), (100, 40, 128), (132, 60, 128), (100, 40, 1)])
def test_every_screen_is_kept_within(width: int, height: int, actors: int) -> None:
    _, status = seen(actors, rewards=4)
    lines = drawn(status, width, height)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    for part in ("leased 350 =", "received 332 =", "unique 330 =", "alerts", "checkpoint", "limit"):
        assert part in text
    if actors == 128:
        shown = sum(f"rollout-{number} " in text for number in range(128))
        hidden = len(status["processes"]) - sum(f"{each['id']} " in text for each in status["processes"])
        assert f"and {hidden} more: {hidden} running" in text
        assert shown < 128


def test_of_more_than_fit_those_that_are_not_well_come_first() -> None:
    watched, _ = seen(actors=128)
    watched.supervision.phases["rollout-97"] = Phase.QUARANTINED
    watched.supervision.phases["rollout-55"] = Phase.BUILDING
    watched.fleet.answered_at["rollout-120"] -= 100
    rows = telling.rows(watched.overview.status())
    assert [row.id for row in rows[:3]] == ["rollout-97", "rollout-120", "rollout-55"]
    text = "\n".join(drawn(watched.overview.status(), 80, 24))
    assert "rollout-97" in text
    assert re.search(r"rollout-120 has not answered for 1\d\d s", text)


def test_alerts_and_a_ledger_that_does_not_hold_stand_out() -> None:
    watched, _ = seen(actors=1)
    watched.fleet.statuses["learner-0"]["ledger"] |= {"leased": 351}
    status = watched.overview.status()
    status["alerts"] = [
        {"name": "WeightsLag", "severity": "warning", "summary": "rollout-0 is behind", "process": "rollout-0", "since": ""}
    ]
    text = "\n".join(drawn(status))
    assert "the ledger does not add up" in text
    assert "WeightsLag (warning) rollout-0 is behind" in text
    plain = telling.lines(status)
    assert "ledger      leased 351 = settled 330 + outstanding 16 + expired 4  DOES NOT HOLD" in plain
    assert sum("DOES NOT HOLD" in line for line in plain) == 1


def test_many_alerts_leave_room_for_the_rest() -> None:
    _, status = seen(actors=2)
    status["problems"] = [f"problem {number}" for number in range(50)]
    text = "\n".join(lines := drawn(status, 80, 24))
    assert len(lines) <= 24
    assert "and 47 more" in text


def test_plain_lines_tell_the_same() -> None:
    _, status = seen(actors=2)
    text = live.plain(status) + "\n" + "\n".join(telling.lines(status))
    assert [part for part in EVERYTHING if part not in text and part not in {"elapsed", "32%"}] == []
    assert re.search(r"rollout-1  running  version 0\.41  heard \d+\.\d s  200 tok/s  164 groups  waits for leases", text)


def test_a_run_that_begins_or_has_ended_is_shown_too() -> None:
    bare = Watched(actors=2)
    bare.supervision.phases = dict.fromkeys(bare.roles, Phase.BUILDING)
    assert "building" in "\n".join(drawn(bare.overview.status()))
    ended = {
        "run": "demo", "state": "completed", "phase": "completed", "step": 130, "steps": 130, "policy_version": {"lineage": 0, "step": 130},
        "elapsed_s": 65.0, "ledger": {}, "figures": {}, "processes": [], "problems": [],
    }  # fmt: skip
    assert "step 130/130" in "\n".join(drawn(ended, whole=True))
    assert telling.lines(ended) == []


@pytest.mark.parametrize(("values", "line"), [([1.0, 2.0, 3.0], "▁▅█"), ([2.0, 2.0], "▄▄"), ([-1.0], "▄"), ([0.0, 7.0, 1.0], "▁█▂")])
def test_a_sparkline(values: list[float], line: str) -> None:
    assert telling.spark(values) == line


@pytest.mark.parametrize(("count", "text"), [(217, "217 B"), (12_300_000, "12.3 MB"), (120e9, "120 GB"), (2.5e12, "2.5 TB")])
def test_a_size(count: float, text: str) -> None:
    assert telling.size(count) == text


def test_alerts_come_from_prometheus_by_the_name_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    from ops import alerts

    def alert(name: str, state: str = "firing", **labels: str) -> dict[str, Any]:
        return {"state": state, "labels": {"alertname": name, **labels}, "annotations": {"summary": f"{name}!"}, "activeAt": "t"}

    found = [
        alert("A", run="demo", severity="critical"),
        alert("B", run="other"),
        alert("C", state="pending", run="demo"),
        alert("TargetDown"),
    ]
    asked: list[str] = []

    def get(url: str, **_: Any) -> httpx.Response:
        asked.append(url)
        return httpx.Response(200, json={"status": "success", "data": {"alerts": found}}, request=httpx.Request("GET", url))

    monkeypatch.setattr(httpx, "get", get)
    told = alerts.firing("http://127.0.0.1:9090/", "demo")
    assert asked == ["http://127.0.0.1:9090/api/v1/alerts"]
    assert [(each["name"], each["severity"], each["summary"]) for each in told] == [
        ("A", "critical", "A!"),
        ("TargetDown", "", "TargetDown!"),
    ]
    monkeypatch.undo()
    with pytest.raises(RbaError, match="does not tell its alerts"):
        alerts.firing("http://127.0.0.1:9/", "demo")


def test_reward_servers_that_run_elsewhere_are_shown_as_the_actors_know_them() -> None:
    watched, _ = seen(actors=2, rewards=0)
    well, gone = (
        {"url": "http://10.0.0.5:80", "state": "closed", "scored_s": 1.5},
        {"url": "http://10.0.0.6:80", "state": "open", "scored_s": None},
    )
    for number in range(2):
        watched.fleet.statuses[f"rollout-{number}"]["reward_servers"] = [well, gone]
    status = watched.overview.status()
    assert status["problems"] == ["the reward server http://10.0.0.6:80 does not answer"]
    first, *others = telling.rows(status)
    assert (first.id, first.healthy, first.doing) == ("10.0.0.6:80", False, "does not answer")
    assert others[-1].id == "10.0.0.5:80"
    assert others[-1].healthy
    text = "\n".join(drawn(status))
    assert "10.0.0.5:80" in text
    assert re.search(r"10\.0\.0\.5:80 +elsewhere +– +\d+\.\d s", text)
    watched.fleet.statuses["rollout-1"]["reward_servers"] = [well, {**gone, "state": "closed"}]
    assert watched.overview.status()["healthy"], "one actor's connection is none of the server's"


def test_the_runs_own_reward_servers_are_shown_once() -> None:
    watched, _ = seen(actors=1)
    url = watched.fleet.descriptions["reward-0"]["endpoints"]["rewards"]
    watched.fleet.statuses["rollout-0"]["reward_servers"] = [{"url": url, "state": "open", "scored_s": None}]
    assert watched.overview.status()["reward_servers"] == []
