"""A run's status in words and figures, for the screen and for plain lines alike. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from protocol.ledger import IDENTITIES

FIGURES = (
    ("loss", "loss", "{:.3f}"),
    ("reward", "reward", "{:.2f}"),
    ("accuracy", "accuracy", "{:.1%}"),
    ("policy_lag", "lag", "{:.1f}"),
    ("groups_per_s", "groups/s", "{:.1f}"),
    ("pairs_per_s", "pairs/s", "{:.1f}"),
    ("tokens_per_s", "tokens/s", "{:,.0f}"),
    ("idle", "learner idle", "{:.0%}"),
    ("nonfinite_steps", "skipped", "{:.0f}"),
    ("rollbacks", "rollbacks", "{:.0f}"),
)
"""(key in a status's figures, what people read, format)."""
TRENDS = (("reward", "reward", "{:.3f}"), ("consistency", "consistency", "{:.3f}"), ("pairs_per_s", "pairs/s", "{:.1f}"))
BARS = "▁▂▃▄▅▆▇█"
SLIGHT = 0.01
"""A smaller share is left out."""
NONE = "–"
LABEL = 12
"""Width of what stands before a line."""
ORDER = ("learner", "reward", "rollout", "weight_store", "fetcher")
"""Roles as they are listed."""


def figures(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of the figures that the status has."""
    known = status["figures"]
    return [(name, form.format(known[key])) for key, name, form in FIGURES if known.get(key) is not None]


def fleet(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """``2/3`` when two of three run that are wanted, of each kind; nothing when all do."""
    known = ((name, status.get(name, {"running": 0, "wanted": 0})) for name in ("actors", "spares", "rewards"))
    return [(name, f"{each['running']}/{each['wanted']}") for name, each in known if each["running"] != each["wanted"]]


def idle(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Who was idle in the last while, and what for: ``("actors", "41% (leases 38%, weights 3%)")``."""
    load = status.get("load", {})
    told = []
    for who, waits in (
        ("learner", (("pairs", "for_pairs"), ("an evaluation", "for_evaluation"))),
        ("actors", (("leases", "for_leases"), ("weights", "for_weights"), ("scores", "for_rewards"), ("audio", "reading"))),
    ):
        share = load.get(f"{who}_idle")
        if share is not None:
            reasons = ", ".join(f"{what} {load[key]:.0%}" for what, key in waits if load.get(key, 0.0) >= SLIGHT)
            told.append((who, f"{share:.0%}{f' ({reasons})' if reasons else ''}"))
    return told


def limit(status: Mapping[str, Any]) -> str:
    """What limits the job, and the figure that says so; "" while that is not known."""
    found = status.get("bottleneck")
    return str(found["text"]) if found else ""


class Trend(NamedTuple):
    """One figure over the last minutes."""

    name: str
    value: str
    """The newest one."""
    line: str
    minutes: float


def trends(status: Mapping[str, Any], width: int) -> list[Trend]:
    """Of at most `width` points each, newest last."""
    known = status.get("trends", {})
    every_s = known.get("every_s", 0.0)
    return [
        Trend(name, form.format(points[-1]), spark(points[-width:]), len(points[-width:]) * every_s / 60)
        for key, name, form in TRENDS
        if (points := known.get(key))
    ]


def spark(values: Sequence[float]) -> str:
    """A bar a value, from the lowest to the highest of them."""
    low, high = min(values), max(values)
    steps = len(BARS) - 1
    return "".join(BARS[round((value - low) / (high - low) * steps)] if high > low else BARS[steps // 2] for value in values)


def ledger(status: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Every identity as ``leased 12 = settled 8 + outstanding 4 + expired 0``, and whether it holds."""
    known, broken = status["ledger"], status.get("ledger_broken", ())
    whole = [(name, parts) for name, parts in IDENTITIES.items() if {name, *parts} <= known.keys()]
    return [
        (f"{name} {known[name]:,} = {' + '.join(f'{part} {known[part]:,}' for part in parts)}", name not in broken) for name, parts in whole
    ]


def kept(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is on disk: the last checkpoint, the journal, the room that is left."""
    checkpoint, journal, free = status.get("checkpoint"), status.get("journal", {}), status.get("disk_free_bytes")
    told = [("checkpoint", f"step {checkpoint['step']}, {clock(checkpoint['age_s'])} ago" if checkpoint else NONE)]
    if "bytes" in journal:
        told.append(("journal", size(journal["bytes"])))
    if free is not None:
        told.append(("disk free", size(free)))
    return told


def alerts(status: Mapping[str, Any]) -> list[str]:
    """What is wrong, by the supervisor, and the alerts that fire, where Prometheus was asked."""
    firing = [f"{each['name']} ({each['severity']}) {each['summary']}".rstrip() for each in status.get("alerts", ())]
    silent = [status["alerts_error"]] if status.get("alerts_error") else []
    return [*status["problems"], *firing, *silent]


class Row(NamedTuple):
    """One process."""

    id: str
    phase: str
    version: str
    heard: str
    """How long ago it last answered."""
    rate: str
    done: str
    doing: str
    healthy: bool

    def plain(self) -> str:
        """In one line."""
        parts = [self.id, self.phase, f"version {self.version}", f"heard {self.heard}", self.rate, self.done, self.doing]
        return "  ".join(part for part in parts if part)


def rows(status: Mapping[str, Any]) -> list[Row]:
    """All processes, and the reward servers elsewhere; what is wrong first, then what does not run, then by role."""

    def rank(process: Mapping[str, Any]) -> tuple[bool, bool, int, int]:
        number = process["id"].rpartition("-")[2]
        role = process.get("role", "")
        place = ORDER.index(role) if role in ORDER else len(ORDER)
        return not process.get("problem"), process["phase"] == "running", place, int(number) if number.isdigit() else 0

    found = [_row(process) for process in sorted(status["processes"], key=rank)]
    return sorted([*found, *map(_elsewhere, status.get("reward_servers", ()))], key=lambda row: row.healthy)


def _elsewhere(server: Mapping[str, Any]) -> Row:
    heard = NONE if server["scored_s"] is None else f"{server['scored_s']:.1f} s"
    doing = "" if server["well"] else "does not answer"
    return Row(urlsplit(server["url"]).netloc, "elsewhere", NONE, heard, "", "", doing, server["well"])


def _row(process: Mapping[str, Any]) -> Row:
    heard_s, work = process.get("last_heartbeat_s"), process.get("work", {})
    rate, done, doing = "", "", ""
    match process.get("role"):
        case "rollout":
            rate = f"{work['tokens_per_s']:,.0f} tok/s" if "tokens_per_s" in work else ""
            done = f"{work['groups']:,} groups" if "groups" in work else ""
            waits = f"waits for {work['waits_for']}" if work.get("waits_for") not in {None, "spare"} else ""
            state = process.get("state") if process.get("state") != "working" else ""
            doing = ", ".join(part for part in (state, "spare" if process.get("spare") else "", waits) if part)
        case "reward":
            rate = f"{work['items_per_s']:,.0f} items/s" if "items_per_s" in work else ""
            done = f"{work['items']:,} items" if "items" in work else ""
            errors = f", {work['errors']:,} errors" if work.get("errors") else ""
            doing = f"{work['queued_items']} queued{errors}" if "queued_items" in work else ""
        case "learner":
            doing = process.get("state") or ""
    restarts = process.get("restarts", 0)
    doing = ", ".join(part for part in (doing, f"restarted {restarts}×" if restarts else "") if part)
    return Row(
        process["id"],
        process["phase"],
        version(process.get("policy_version")),
        NONE if heard_s is None else f"{heard_s:.1f} s",
        rate,
        done,
        doing,
        not process.get("problem"),
    )


def rest(hidden: Sequence[Row]) -> str:
    """The processes that there is no room for, in one line."""
    phases = Counter(row.phase for row in hidden)
    return f"and {len(hidden)} more: {', '.join(f'{count} {phase}' for phase, count in phases.items())}"


def lines(status: Mapping[str, Any]) -> list[str]:
    """Everything that the screen shows below its figures, a line each."""
    told = [f"{'idle':{LABEL}}{', '.join(f'{who} {share}' for who, share in waits)}"] if (waits := idle(status)) else []
    told += [f"{'limit':{LABEL}}{text}"] if (text := limit(status)) else []
    told += [f"{trend.name:{LABEL}}{trend.value} {trend.line} ({trend.minutes:.0f} min)" for trend in trends(status, 60)]
    told += [row.plain() for row in rows(status)]
    told += [f"{'ledger':{LABEL}}{text}{'' if holds else '  DOES NOT HOLD'}" for text, holds in ledger(status)]
    if status["processes"]:
        told.append("  ".join(f"{name} {value}" for name, value in kept(status)))
    return [*told, *(f"! {alert}" for alert in alerts(status))] if told else []


def eta(status: Mapping[str, Any]) -> str:
    """Time left, as ``m:ss``, at the pace of the steps so far; ``–`` while that is unknown."""
    seconds = status["figures"].get("eta_s")
    return NONE if seconds is None else clock(seconds)


def clock(seconds: float) -> str:
    """``1:05``, ``2:03:04``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: float) -> str:
    """``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def version(value: Mapping[str, int] | None) -> str:
    """``0.10``; ``–`` while there is none."""
    return f"{value['lineage']}.{value['step']}" if value else NONE
