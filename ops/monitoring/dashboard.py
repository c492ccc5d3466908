"""The Grafana dashboard: `ops.monitoring.panels`, laid out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ops.monitoring.panels import ROWS, Panel
from ops.monitoring.queries import KNOWN

UID = "rba"
SCHEMA_VERSION = 41
COLUMNS, HEIGHT, WIDTH, STAT_WIDTH, STAT_HEIGHT = 24, 8, 8, 4, 4
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> str:
    """As JSON."""
    content = {
        "uid": UID,
        "title": "rba",
        "description": "Online preference alignment: throughput, lag, waiting, rewards, weights, ledgers.",
        "tags": ["rba"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "schemaVersion": SCHEMA_VERSION,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "templating": {"list": list(_variables())},
        "annotations": {"list": []},
        "links": [],
        "panels": list(_panels()),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0}
    choices: dict[bool, dict[str, Any]] = {
        False: {"multi": False, "includeAll": False, "current": {}},  # curves of two runs in one panel would be told apart by nothing
        True: {"multi": True, "includeAll": True, "allValue": ".+", "current": {"text": ["All"], "value": ["$__all"]}},
    }
    for name, query in (("run", "label_values(rba_build_info, run)"), ("process", 'label_values(up{run=~"$run"}, process)')):
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": query, "refId": name},
            "definition": query,
            "refresh": 2,
            "sort": 1,
            "hide": 0,
            **choices[name != "run"],
        }


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for title, row in ROWS.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
        }
        top += 1
        left, height = 0, 0
        for panel in row:
            width, tall = _size(panel)
            if left + width > COLUMNS:
                top, left, height = top + height, 0, 0
            number += 1
            yield _panel(panel, number, {"x": left, "y": top, "w": width, "h": tall})
            left, height = left + width, max(height, tall)
        top += height


def _size(panel: Panel) -> tuple[int, int]:
    if panel.kind == "timeseries":
        return WIDTH, HEIGHT
    return STAT_WIDTH, STAT_HEIGHT


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    custom = {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"} if panel.kind == "timeseries" else {}
    top = {"max": panel.top, "min": 0} if panel.top is not None else {}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": _description(panel),
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom, **top}, "overrides": []},
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "editorMode": "code",
                "range": True,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "textMode": "value", "colorMode": "none"}
    if panel.kind == "state-timeline":
        return {"showValue": "never", "mergeValues": True, "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _description(panel: Panel) -> str:
    """What the catalogue says of the metrics that it shows."""
    named = dict.fromkeys(known for query in panel.queries for known in names(query.expr))
    return "\n\n".join(f"`{name}`: {KNOWN[name].meaning}" for name in named)


def names(expr: str) -> list[str]:
    """Metrics of the catalogue in a query, a histogram by its own name."""
    found = []
    for word in re.findall(r"\brba_\w+", expr):
        base = re.sub(r"_(bucket|sum|count)$", "", word)
        found += [name for name in (word, base) if name in KNOWN][:1]
    return found
