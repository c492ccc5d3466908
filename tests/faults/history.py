"""The one checker of every drill: reads what all processes noted, and the journal, and says what is not as promised.

    granted ─▶ leased ─▶ sent ─▶ received (journal) ─▶ acked
                                    └─▶ taken, trained | dropped, with a reason | queued

What it holds against a run (docs/guarantees.md):

- every acknowledged result is in the journal, once, and was trained once, or dropped with a reason, or waits;
- a step trains what the journal says, and the same in every life that takes it; no step is left out;
- an ordinal stands for one group, none is skipped, and no group comes twice in a pass over the data;
- a policy version of a step has one digest in all lives, and an actor applies nothing else, nor goes back;
- nothing is trained that is older than the bound, or by weights that nobody published;
- the ledger adds up, and agrees with the journal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learner.journal import JOURNAL
from learner.journal.disk import PosixDisk
from learner.journal.records import Began, Dropped, Received, Record, Taken, Trained
from learner.journal.recovery import read_all
from protocol.ledger import IDENTITIES
from protocol.messages import REFERENCE, PolicyVersion, Purpose
from tests.faults.record import Reader

Row = dict[str, Any]
FREED = "freed"
"""Folder of the journal's files that the run has freed."""


@dataclass(slots=True)
class Journalled:
    """What the journal says, by ordinal."""

    received: Counter[int] = field(default_factory=Counter)
    life_of: dict[int, int] = field(default_factory=dict)
    """Lineage of the life that received it."""
    group_of: dict[int, str] = field(default_factory=dict)
    oldest: dict[int, PolicyVersion] = field(default_factory=dict)
    """Oldest version that wrote a token of any pair of the result."""
    taken: dict[int, list[list[int]]] = field(default_factory=dict)
    """By step: the batches that were taken for it."""
    trained: set[int] = field(default_factory=set)
    """Steps."""
    dropped: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Journalled:
        found, life = cls(), 0
        for each in records:
            match each:
                case Received(result=result) if result.purpose is Purpose.TRAIN:
                    found.received[result.ordinal] += 1
                    found.life_of.setdefault(result.ordinal, life)
                    found.group_of[result.ordinal] = result.group_id
                    sides = {index for pair in result.pairs for index in (pair.chosen, pair.rejected) if index != REFERENCE}
                    versions = [span.version for index in sides for span in result.completions[index].spans]
                    if versions:
                        found.oldest[result.ordinal] = min(versions)
                case Began():
                    life = each.lineage
                case Taken():
                    found.taken.setdefault(each.step, []).append(list(each.ordinals))
                case Trained():
                    found.trained.add(each.step)
                case Dropped():
                    found.dropped[each.ordinal] = each.reason
                case _:
                    pass
        return found


def check(folder: Path, max_policy_lag: int, budget_groups: int) -> list[str]:
    """What is wrong with the drill in `folder`; empty when nothing is."""
    whole = folder / "whole-journal"
    whole.mkdir()
    for path in (*(folder / FREED).glob("*.journal"), *(folder / "run" / JOURNAL).glob("*.journal")):
        (whole / path.name).hardlink_to(path)
    journal = Journalled.of(each for _, each in read_all(PosixDisk(whole)).records())
    return list(judge(Reader(folder).rows(), journal, max_policy_lag, budget_groups))


def judge(rows: Sequence[Row], journal: Journalled, max_policy_lag: int, budget_groups: int) -> Iterator[str]:
    """See the module's text."""
    if not journal.received or not any(row["event"] == "acked" for row in rows):
        yield "nothing happened: no result was acknowledged"
    yield from _results(rows, journal)
    yield from _steps(rows, journal)
    yield from _ordinals(rows, journal, budget_groups)
    yield from _versions(rows)
    yield from _lags(rows, journal, max_policy_lag)
    yield from _ledgers(rows, journal)


def _results(rows: Sequence[Row], journal: Journalled) -> Iterator[str]:
    acked = {ordinal for row in rows if row["event"] == "acked" for ordinal in row["ordinals"]}
    if lost := sorted(acked - journal.received.keys()):
        yield f"acknowledged and lost: the results of the ordinals {lost}"
    life = 0
    for row in rows:
        life = row["lineage"] if row["event"] == "began" else life
        if early := [each for each in row.get("ordinals", []) if row["event"] == "acked" and journal.life_of.get(each, 0) > life]:
            yield f"acknowledged in life {life}, durable in a later one: the results of the ordinals {early}"
    if twice := sorted(ordinal for ordinal, count in journal.received.items() if count > 1):
        yield f"entered more than once: the ordinals {twice}"
    uses = Counter(ordinal for batches in journal.taken.values() for ordinal in batches[-1])
    if twice := sorted(ordinal for ordinal, count in uses.items() if count > 1):
        yield f"trained in more than one step: the ordinals {twice}"
    if both := sorted(uses.keys() & journal.dropped.keys()):
        yield f"trained and dropped: the ordinals {both}"
    if unknown := sorted(uses.keys() - journal.received.keys()):
        yield f"trained without having been received: the ordinals {unknown}"
    if bare := sorted(ordinal for ordinal, reason in journal.dropped.items() if not reason):
        yield f"dropped without a reason: the ordinals {bare}"


def _steps(rows: Sequence[Row], journal: Journalled) -> Iterator[str]:
    if many := sorted(step for step, batches in journal.taken.items() if any(batch != batches[0] for batch in batches)):
        yield f"other batches were taken for the same steps: {many}"
    last = max(journal.taken, default=0)
    if gaps := sorted(set(range(1, last + 1)) - journal.taken.keys()):
        yield f"steps without a batch: {gaps}"
    if early := sorted(journal.trained - journal.taken.keys()):
        yield f"steps trained before their batch was durable: {early}"
    seen: dict[int, tuple[int, list[Any]]] = {}
    reached: dict[int, int] = {}
    for row in (row for row in rows if row["event"] == "trained"):
        step, groups = row["step"], row["groups"]
        ordinals = sorted(ordinal for ordinal, _ in groups)
        if step in journal.taken and ordinals != sorted(journal.taken[step][-1]):
            yield f"step {step} trained the ordinals {ordinals}, the journal has {sorted(journal.taken[step][-1])}"
        elif step not in journal.taken:
            yield f"step {step} was trained and the journal knows nothing of it"
        if seen.setdefault(step, (row["pid"], groups))[1] != groups:
            yield f"step {step} was trained otherwise by {row['pid']} than by {seen[step][0]}"
        if row["pid"] in reached and step != reached[row["pid"]] + 1:
            yield f"process {row['pid']} trained step {step} after step {reached[row['pid']]}"
        reached[row["pid"]] = step


def _ordinals(rows: Sequence[Row], journal: Journalled, budget_groups: int) -> Iterator[str]:
    group_of = dict(journal.group_of)
    for row in (row for row in rows if row["event"] in ("granted", "leased")):
        for ordinal, _, group in row["groups"]:
            if group_of.setdefault(ordinal, group) != group:
                yield f"ordinal {ordinal} stands for {group_of[ordinal]} and for {group}"
    last = max(group_of, default=-1)
    if skipped := sorted(set(range(last + 1)) - group_of.keys()):
        yield f"ordinals that nobody was leased: {skipped}"
    waiting = sorted(set(range(last + 1)) - journal.received.keys())
    if len(waiting) > budget_groups:
        yield f"{len(waiting)} ordinals have no result, at most {budget_groups} may be out: {waiting}"
    size = len(set(group_of.values()))
    for start in range(0, last + 1 - size, size):  # whole passes over the data
        if len({group_of.get(ordinal) for ordinal in range(start, start + size)}) < size:
            yield f"a group came twice in the pass from ordinal {start} on"


def _versions(rows: Sequence[Row]) -> Iterator[str]:
    published: dict[str, str] = {}
    by_step: dict[int, str] = {}
    applied: dict[int, PolicyVersion] = {}
    announced: set[str] = set()
    for row in rows:
        if row["event"] == "publishing":
            announced.add(row["version"])
        elif row["event"] == "published":
            version = PolicyVersion.parse(row["version"])
            if published.setdefault(row["version"], row["digest"]) != row["digest"]:
                yield f"policy version {version} was published with two digests"
            if by_step.setdefault(version.step, row["digest"]) != row["digest"]:
                yield f"step {version.step} has other weights in lineage {version.lineage} than before"
        elif row["event"] == "applied":
            version = PolicyVersion.parse(row["version"])
            if row["version"] in announced:  # its learner may have died as soon as it was there to be fetched
                published.setdefault(row["version"], by_step.setdefault(version.step, row["digest"]))
            if published.get(row["version"]) != row["digest"]:
                yield f"{row['process']} applied {version} with digest {row['digest']}, published was {published.get(row['version'])}"
            if version < applied.get(row["pid"], version):
                yield f"{row['process']} went back from {applied[row['pid']]} to {version}"
            applied[row["pid"]] = version


def _lags(rows: Sequence[Row], journal: Journalled, max_policy_lag: int) -> Iterator[str]:
    published = {row["version"] for row in rows if row["event"] in ("published", "publishing")}
    for step, batches in journal.taken.items():
        for ordinal in batches[-1]:
            oldest = journal.oldest.get(ordinal)
            if oldest is not None and not 0 <= step - 1 - oldest.step <= max_policy_lag:
                yield f"ordinal {ordinal}, sampled by {oldest}, was trained in step {step}; the bound is {max_policy_lag}"
    for row in (row for row in rows if row["event"] == "trained"):
        if unknown := sorted(set(row["versions"]) - published):
            yield f"step {row['step']} trained what {unknown} sampled, which nobody published"


def _ledgers(rows: Sequence[Row], journal: Journalled) -> Iterator[str]:
    closing = [row["closing"]["ledger"] for row in rows if row["event"] == "ended" and "ledger" in row["closing"]]
    for ledger in closing:
        for whole, parts in IDENTITIES.items():
            if ledger[whole] != sum(ledger[part] for part in parts):
                yield f"the ledger does not add up: {whole} {ledger[whole]}, {[(part, ledger[part]) for part in parts]}"
    if not closing:
        return
    last = closing[-1]
    trained = sum(len(batches[-1]) for batches in journal.taken.values())
    for name, said, found in (("trained", last["trained"], trained), ("unique", last["unique"], len(journal.received))):
        if said != found:
            yield f"the ledger has {said} {name}, the journal {found}"
