"""The checker lets a good history pass, and says what is wrong with each bad one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from learner.journal.records import Began, Dropped, Received, Record, Taken, Trained
from protocol.messages import Completion, GroupResult, Outcome, PolicyVersion, PreferencePair, VersionSpan
from tests.faults.history import Journalled, judge

LAG, BUDGET, GROUPS = 2, 4, 4
Rows = list[dict[str, Any]]
Journal = list[Record]
Doctor = Callable[[Rows, Journal], object]


def result(ordinal: int, step: int) -> GroupResult:
    spans = [VersionSpan(PolicyVersion(0, step), 0, 1)]
    completions = [Completion(index, b"\1\0\0\0", b"\0\0\0\0", "a", "stop", spans) for index in range(2)]
    return GroupResult(ordinal, 0, f"g{ordinal % GROUPS}", Outcome.PAIRS, completions=completions, pairs=[PreferencePair(0, 1)])


def row(at_s: float, process: str, event: str, **values: Any) -> dict[str, Any]:
    return {"at_s": at_s, "process": process, "pid": {"learner-0": 1, "rollout-0": 2}[process], "event": event, **values}


def good() -> tuple[Rows, Journal]:
    """Three steps of two groups; the seventh result is stale, the eighth waits, the ninth group is out."""
    rows: Rows = [row(0.0, "learner-0", "published", version="0.0", digest="d0")]
    journal: Journal = []
    rows.append(row(0.1, "learner-0", "granted", groups=[[ordinal, 0, f"g{ordinal % GROUPS}"] for ordinal in range(9)]))
    for step in (1, 2, 3):
        ordinals = [2 * step - 2, 2 * step - 1]
        rows.append(row(step + 0.1, "rollout-0", "applied", version=f"0.{step - 1}", digest=f"d{step - 1}"))
        journal += [Received(result(ordinal, step - 1), ordinal) for ordinal in ordinals]
        rows.append(row(step + 0.2, "rollout-0", "acked", ordinals=ordinals))
        journal += [Taken(step, ordinals), Trained(step)]
        groups = [[ordinal, f"g{ordinal % GROUPS}"] for ordinal in ordinals]
        rows.append(row(step + 0.3, "learner-0", "trained", step=step, groups=groups, versions=[f"0.{step - 1}"]))
        rows.append(row(step + 0.4, "learner-0", "published", version=f"0.{step}", digest=f"d{step}"))
    journal += [Received(result(6, 0), 6), Dropped(6, "stale"), Received(result(7, 3), 7)]
    rows.append(row(5.0, "rollout-0", "acked", ordinals=[6, 7]))
    ledger = {"leased": 9, "settled": 8, "outstanding": 1, "expired": 0, "received": 8, "unique": 8, "duplicate": 0, "rejected": 0}
    rows.append(row(6.0, "learner-0", "ended", closing={"ledger": {**ledger, "trained": 6, "dropped": 1, "queued": 1}}))
    return rows, journal


def faults(rows: Rows, journal: Journal) -> list[str]:
    return list(judge(sorted(rows, key=lambda row: row["at_s"]), Journalled.of(journal), LAG, BUDGET))


def events(rows: Rows, event: str) -> Rows:
    return [row for row in rows if row["event"] == event]


def test_a_good_history_passes() -> None:
    assert faults(*good()) == []


def test_another_life_that_takes_the_same_steps_passes() -> None:
    rows, journal = good()
    again = [{**row, "at_s": row["at_s"] + 10, "pid": 3} for row in rows if row["event"] in ("trained", "published")]
    for each in events(again, "published"):
        each["version"] = each["version"].replace("0.", "1.", 1)
    assert faults([*rows, *again], journal) == []


def life_that_trains_otherwise(rows: Rows, journal: Journal) -> None:
    again = copy.deepcopy(events(rows, "trained")[:1])
    again[0] |= {"pid": 3, "at_s": 9.0, "groups": again[0]["groups"][::-1]}
    rows += again


DOCTORED: dict[str, Doctor] = {
    "acknowledged and lost": lambda rows, journal: journal.remove(journal[0]),
    "durable in a later one": lambda rows, journal: journal.insert(0, Began(1, 0)),
    "entered more than once": lambda rows, journal: journal.append(journal[0]),
    "trained in more than one step": lambda rows, journal: journal.append(Taken(4, [0, 1])),
    "trained and dropped": lambda rows, journal: journal.append(Dropped(0, "stale")),
    "without having been received": lambda rows, journal: journal.append(Taken(4, [8])),
    "without a reason": lambda rows, journal: journal.append(Dropped(7, "")),
    "other batches were taken": lambda rows, journal: journal.append(Taken(3, [5, 4])),
    "steps without a batch": lambda rows, journal: journal.append(Taken(5, [7])),
    "before their batch was durable": lambda rows, journal: journal.append(Trained(4)),
    "knows nothing of it": lambda rows, journal: events(rows, "trained")[2].update(step=4),
    "the journal has": lambda rows, journal: events(rows, "trained")[0]["groups"].pop(),
    "was trained otherwise": life_that_trains_otherwise,
    "after step": lambda rows, journal: rows.remove(events(rows, "trained")[1]),
    "stands for": lambda rows, journal: events(rows, "granted")[0]["groups"][7].__setitem__(2, "g0"),
    "nobody was leased": lambda rows, journal: events(rows, "granted")[0]["groups"].append([12, 0, "g0"]),
    "have no result": lambda rows, journal: events(rows, "granted")[0]["groups"].extend([n, 0, f"g{n % 4}"] for n in range(9, 14)),
    "came twice in the pass": lambda rows, journal: events(rows, "granted")[0]["groups"].extend([[9, 0, "g5"], [10, 0, "g2"]]),
    "with two digests": lambda rows, journal: rows.append(row(9.0, "learner-0", "published", version="0.3", digest="other")),
    "has other weights": lambda rows, journal: rows.append(row(9.0, "learner-0", "published", version="1.3", digest="other")),
    "applied 0.2": lambda rows, journal: events(rows, "applied")[2].update(digest="mixed"),
    "went back": lambda rows, journal: rows.append(row(9.0, "rollout-0", "applied", version="0.0", digest="d0")),
    "the bound is": lambda rows, journal: journal.__setitem__(0, Received(result(0, 9), 0)),
    "which nobody published": lambda rows, journal: events(rows, "trained")[1].update(versions=["7.7"]),
    "does not add up": lambda rows, journal: events(rows, "ended")[0]["closing"]["ledger"].update(received=9),
    "the ledger has": lambda rows, journal: events(rows, "ended")[0]["closing"]["ledger"].update(trained=5, queued=2),
    "nothing happened": lambda rows, journal: [rows.remove(each) for each in events(rows, "acked")],
}


@pytest.mark.parametrize("fault", DOCTORED)
def test_a_doctored_history_does_not_pass(fault: str) -> None:
    rows, journal = good()
    DOCTORED[fault](rows, journal)
    assert any(fault in found for found in faults(rows, journal))
