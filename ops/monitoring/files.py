"""All files that `rba monitoring write` leaves, by their place in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ops.monitoring import deployment
from ops.monitoring.dashboard import dashboard
from ops.monitoring.rules import RUNBOOK, rules


def deployed(control_ports: Sequence[int] = (deployment.CONTROL_PORT,), runbook: str = RUNBOOK) -> dict[str, str]:
    """The texts, for runs with these control ports; alerts point at `runbook`."""
    return {
        "compose.yaml": deployment.compose(),
        "prometheus/prometheus.yaml": deployment.prometheus(control_ports),
        "prometheus/rules.yaml": rules(runbook=runbook),
        "grafana/provisioning/datasources/prometheus.yaml": deployment.datasource(),
        "grafana/provisioning/dashboards/rba.yaml": deployment.dashboards(),
        "grafana/dashboards/rba.json": dashboard(),
    }


def write(folder: Path, texts: dict[str, str]) -> list[Path]:
    """Write them below `folder`; the paths."""
    paths = []
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        paths.append(path)
    return paths
