"""Where Ray's own agents serve their metrics, without a Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ops.workers import Fleet


def test_only_machines_that_live_and_serve_metrics_are_named() -> None:
    def node(address: str, port: int, *, alive: bool = True) -> dict[str, Any]:
        return {"NodeManagerAddress": address, "MetricsExportPort": port, "Alive": alive}

    fleet = Fleet.__new__(Fleet)
    nodes = [
        node("10.0.0.1", 8085),
        node("10.0.0.2", -1),
        node("10.0.0.3", 8085, alive=False),
        {"NodeManagerAddress": "10.0.0.4", "Alive": True},
    ]
    fleet._ray = SimpleNamespace(nodes=lambda: nodes)
    assert fleet.exporters() == ["10.0.0.1:8085"]
