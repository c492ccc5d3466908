"""The dashboard is one that Grafana takes, and shows everything that the catalogue has."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import prometheus, stat, timeseries
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from ops.monitoring.dashboard import dashboard, names
from ops.monitoring.panels import ROWS
from ops.monitoring.queries import gauge
from protocol.catalogue import CATALOGUE

CONTENT: dict[str, Any] = json.loads(dashboard())
PANELS: list[dict[str, Any]] = CONTENT["panels"]
UNITS = {"none", "s", "bytes", "Bps", "cps", "percentunit", "percent"}


def corners(place: dict[str, int]) -> set[tuple[int, int]]:
    return {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(ids) == len(set(ids))
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)
    for one, other in combinations(PANELS, 2):
        assert not corners(one["gridPos"]) & corners(other["gridPos"]), (one["title"], other["title"])


def test_panels_stand_below_the_heading_of_their_row() -> None:
    order = [panel["title"] for panel in sorted(PANELS, key=lambda panel: (panel["gridPos"]["y"], panel["gridPos"]["x"]))]
    assert order == [title for row, panels in ROWS.items() for title in (row, *(panel.title for panel in panels))]


def test_it_is_one_that_grafana_takes() -> None:
    assert CONTENT["schemaVersion"] >= 39
    assert CONTENT["uid"]
    assert [variable["name"] for variable in CONTENT["templating"]["list"]] == ["datasource", "run", "process"]
    for panel in PANELS:
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
            assert [target["refId"] for target in panel["targets"]] == [chr(65 + index) for index in range(len(panel["targets"]))]
            assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])


def lost(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where something of ours is not in theirs, or is something else; what theirs has besides are defaults."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        missing = [f"{path}.{key}" for key in ours.keys() - theirs.keys()]
        return missing + [each for key in ours.keys() & theirs.keys() for each in lost(ours[key], theirs[key], f"{path}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [each for index, pair in enumerate(zip(ours, theirs, strict=True)) for each in lost(*pair, f"{path}.{index}")]
    return [] if ours == theirs else [path]


def test_grafanas_own_models_read_all_of_it() -> None:
    plugins.register_default_plugins()
    read = Dashboard.from_json(CONTENT)
    # `definition` is what Grafana's editor shows of a variable's query, which they have as `query`
    assert [each for each in lost(CONTENT, json.loads(JSONEncoder().encode(read))) if not each.endswith(".definition")] == []
    options: dict[str, type] = {"stat": stat.Options, "timeseries": timeseries.Options}
    for panel in read.panels or []:
        if isinstance(panel, Panel):
            assert isinstance(panel.options, options.get(panel.type_val, object))
            assert all(isinstance(target, prometheus.Dataquery) for target in panel.targets or [])


def test_every_metric_is_shown_and_every_panel_says_what_it_shows() -> None:
    shown = {name for panel in PANELS for target in panel.get("targets", ()) for name in names(target["expr"])}
    assert shown == {metric.name for metric in CATALOGUE}
    for panel in PANELS:
        exprs = [target["expr"] for target in panel.get("targets", ())]
        assert all(f"`{name}`" in panel["description"] for expr in exprs for name in names(expr))


def test_every_query_is_of_the_chosen_runs() -> None:
    for panel in PANELS:
        for target in panel.get("targets", ()):
            for braces in re.findall(r"\{([^}]*)\}", target["expr"]):
                assert 'run=~"$run"' in braces, target["expr"]


def test_units_are_those_of_the_metrics() -> None:
    units = {"seconds": {"s"}, "bytes": {"bytes", "Bps"}, "ratio": {"percentunit", "none"}}
    for panel in PANELS:
        known = {metric.unit for metric in CATALOGUE for target in panel.get("targets", ()) if metric.name in names(target["expr"])}
        counted = any(re.search(r"rate\(rba_\w+_seconds_total", target["expr"]) for target in panel.get("targets", ()))
        for unit in known - {""}:
            assert panel["fieldConfig"]["defaults"]["unit"] in ({"percentunit"} if counted else units[unit]), panel["title"]


def test_a_metric_that_is_not_in_the_catalogue_is_refused() -> None:
    with pytest.raises(KeyError):
        gauge("rba_typo")
