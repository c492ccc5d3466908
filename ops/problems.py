"""What is wrong with a run, in words: one line a problem, from what its processes say. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ops.orders import Phase
from ops.views import ProcessView, servers_elsewhere
from protocol.ledger import IDENTITIES

MOST_OFF = 0.5
"""Share of completions that may be off before the run counts as unhealthy."""
SILENT_S = 30.0
"""A process that has not answered for this long is unhealthy."""
_TOLD = {
    Phase.FAILED: "has failed",
    Phase.QUARANTINED: "failed too often and is quarantined",
    Phase.RESTARTING: "failed and is restarted",
}


def problems(processes: Sequence[ProcessView], learner: Mapping[str, Any], unattended_s: float = 0.0) -> list[str]:
    """All of them; `learner` is the status of rank 0. The supervisor has not looked after its processes for `unattended_s`."""
    own = (problem for each in processes if (problem := problem_of(each)))
    left_alone = [f"the supervisor has not looked after its processes for {unattended_s:.0f} s"] if unattended_s > SILENT_S else []
    elsewhere = (f"the reward server {each['url']} does not answer" for each in servers_elsewhere(processes) if not each["well"])
    return [*left_alone, *own, *elsewhere, *_ledger(learner), *_sampler(learner), *_journal(learner)]


def problem_of(view: ProcessView) -> str:
    """What is wrong with one process, or ""."""
    if view.phase in _TOLD:
        return f"{view.id} {_TOLD[view.phase]}"
    if view.phase is Phase.RUNNING and view.last_heartbeat_s is not None and view.last_heartbeat_s > SILENT_S:
        return f"{view.id} has not answered for {view.last_heartbeat_s:.0f} s"
    return ""


def broken(ledger: Mapping[str, Any]) -> list[str]:
    """The identities of a ledger (`protocol.ledger.Ledger.as_dict`) that do not hold, by the whole that they account for."""
    known = [(whole, parts) for whole, parts in IDENTITIES.items() if {whole, *parts} <= ledger.keys()]
    return [whole for whole, parts in known if ledger[whole] != sum(ledger[part] for part in parts)]


def _ledger(learner: Mapping[str, Any]) -> list[str]:
    ledger = learner.get("ledger", {})
    return [f"the ledger does not add up: {ledger}"] if broken(ledger) else []


def _sampler(learner: Mapping[str, Any]) -> list[str]:
    off = learner.get("last", {}).get("completions_off")
    if off is None or off <= MOST_OFF:
        return []
    told = f"{off:.0%} of the last step's completions have other log-probabilities by the learner than by their sampler"
    return [f"{told}: the engine's weights, prompts or audio are not the learner's, or pairs are too old (learner.sampler_gap_alarm)"]


def _journal(learner: Mapping[str, Any]) -> list[str]:
    stalled = learner.get("journal", {}).get("stalled")
    return [f"{stalled}; nothing is leased or acknowledged until it can be"] if stalled else []
