"""The rules as Prometheus reads them."""

from __future__ import annotations

from typing import Any

from ops.monitoring import alerts
from ops.monitoring.limits import Limits, duration
from ops.monitoring.yaml_text import text

RUNBOOK = "docs/runbook.md"


def rules(limits: Limits | None = None, runbook: str = RUNBOOK) -> str:
    """The rule file. `runbook` is where people find docs/runbook.md, such as a URL."""
    limits = limits or Limits()
    recorded = [{"record": name, "expr": expr} for name, expr in alerts.records(limits).items()]
    alerting = [_alert(each, runbook) for each in alerts.alerts(limits)]
    return text({"groups": [{"name": "rba records", "rules": recorded}, {"name": "rba alerts", "rules": alerting}]})


def _alert(alert: alerts.Alert, runbook: str) -> dict[str, Any]:
    held = {"for": duration(alert.hold_s)} if alert.hold_s else {}
    return {
        "alert": alert.name,
        "expr": alert.expr,
        **held,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "description": alert.description, "runbook_url": f"{runbook}#{alert.anchor}"},
    }
