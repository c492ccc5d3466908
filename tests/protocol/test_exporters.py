"""Every metric of the catalogue is exported by the roles that it names, and nothing else is: read from the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol import ledger
from protocol.catalogue import ALL, CATALOGUE, FETCHER, LEARNER, REWARD, ROLLOUT, STORE, SUPERVISOR
from protocol.metrics import Metrics

ROOT = Path(__file__).parents[2]
SOURCES = {
    LEARNER: ("learner/**/*.py",),
    ROLLOUT: ("actors/rollout/*.py", "actors/rewards/client.py"),
    REWARD: ("actors/rewards/[!c]*.py",),  # without the client
    STORE: ("protocol/weights/store.py",),
    FETCHER: ("protocol/weights/fetcher.py",),
    SUPERVISOR: ("ops/*.py",),
}
CHANGES = {"inc", "set", "observe", "succeeded", "ask", "_set", "_upto", "_count_up"}
BY_METHOD = {"refusals": "rba_authentication_failures_total", "messages_refused": "rba_messages_refused_total"}
"""Methods of `Metrics` that stand for one metric."""


def changed(role: str) -> Iterator[re.Pattern[str]]:
    """Names that the role's code sets, counts or observes; of a name that is put together, its parts."""
    for pattern in SOURCES[role]:
        for path in ROOT.glob(pattern):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in BY_METHOD:
                    yield re.compile(BY_METHOD[node.attr])
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES and node.args):
                    continue
                match node.args[0]:
                    case ast.Constant(value=str(name)):
                        yield re.compile(re.escape(name))
                    case ast.JoinedStr(values=parts):
                        yield re.compile("".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in parts))


@pytest.mark.parametrize("role", ALL)
def test_every_role_exports_what_the_catalogue_says(role: str) -> None:
    known = list(changed(role))
    promised = {metric.name for metric in CATALOGUE if role in metric.exporters} - {"rba_build_info"}
    silent = {name for name in promised if not any(pattern.fullmatch(name) for pattern in known)}
    assert not silent, f"nothing sets them in a {role}"


def test_reasons_for_refused_results_are_the_ones_that_are_declared() -> None:
    source = (ROOT / "protocol/dialogue/learner.py").read_text()
    assert set(re.findall(r'ledger\.reject\(result, "(\w+)"\)', source)) == set(ledger.REJECTED)


def test_a_role_that_has_done_nothing_exports_its_counters_at_zero() -> None:
    from actors.rollout.gauges import Gauges as OfRollout
    from learner.gauges import Gauges as OfLearner

    for role, gauges in ((LEARNER, OfLearner), (ROLLOUT, OfRollout)):
        metrics = Metrics(role)
        gauges(metrics)
        text = metrics.render().decode()
        counters = [metric for metric in CATALOGUE if role in metric.exporters and metric.kind == "counter"]
        missing = {metric.name for metric in counters if not re.search(rf"^{metric.name}(\{{| )", text, re.MULTILINE)}
        assert missing <= {"rba_reward_errors_total", "rba_authentication_failures_total"}, "those have values that only events tell"
