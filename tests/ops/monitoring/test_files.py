"""What is committed is what the generators write, and what is written hangs together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ops.cli import app
from ops.monitoring import deployment, files
from ops.monitoring.alerts import alerts
from ops.monitoring.limits import Limits
from ops.monitoring.pages import metrics_page
from ops.monitoring.queries import KNOWN
from protocol.catalogue import CATALOGUE, SECTIONS, sections

ROOT = Path(__file__).parents[3]


def test_what_is_committed_is_up_to_date() -> None:
    committed = {name: (ROOT / "ops" / "deploy" / name).read_text() for name in files.deployed()}
    assert committed == files.deployed(), "run `make monitoring`"
    assert (ROOT / "docs" / "metrics.md").read_text() == metrics_page(), "run `make monitoring`"
    there = {str(path.relative_to(ROOT / "ops" / "deploy")) for path in (ROOT / "ops" / "deploy").rglob("*") if path.is_file()}
    assert there == set(committed)


def test_the_page_has_every_metric_under_its_heading() -> None:
    listed = [metric for _, metrics in sections() for metric in metrics]
    assert listed == list(CATALOGUE)
    assert set(SECTIONS) <= set(KNOWN)
    page = metrics_page()
    assert all(f"| `{metric.name}` | {metric.kind} | {metric.unit} |" in page for metric in CATALOGUE)


def test_every_alert_has_its_paragraph_in_the_runbook() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    names = [each.name for each in alerts(Limits())]
    assert [heading for heading in headings if heading in names] == names
    for name in names:
        paragraph = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert all(f"**{part}.**" in paragraph for part in ("What it means", "How to tell", "What to do")), name


def test_the_command_writes_for_the_runs_that_it_is_told_of(tmp_path: Path) -> None:
    arguments = [
        "monitoring",
        "write",
        str(tmp_path / "there"),
        "--control-port",
        "9501",
        "--control-port",
        "9502",
        "--runbook",
        "https://x/r",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    config = yaml.safe_load((tmp_path / "there" / "prometheus" / "prometheus.yaml").read_text())
    for job in config["scrape_configs"]:
        assert [each["url"] for each in job["http_sd_configs"]] == [f"http://127.0.0.1:{port}/v1/targets" for port in (9501, 9502)]
    rules = yaml.safe_load((tmp_path / "there" / "prometheus" / "rules.yaml").read_text())
    urls = [rule["annotations"]["runbook_url"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    assert urls == [f"https://x/r#{each.anchor}" for each in alerts(Limits())]
    assert "network.control_port=9501" in done.output


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    from protocol.errors import UserError

    done = CliRunner().invoke(app, ["monitoring", "write", str(tmp_path / "file" / "below")])
    assert isinstance(done.exception, UserError)


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(deployment.compose())
    return loaded


def test_compose_listens_on_loopback_with_pinned_images(compose: dict[str, Any]) -> None:
    assert set(compose) == {"name", "services", "volumes"}
    for service in compose["services"].values():
        assert set(service) <= {"image", "network_mode", "restart", "command", "depends_on", "environment", "volumes"}
        assert service["network_mode"] == "host"
        assert service["image"].split(":")[1].lstrip("v")[0].isdigit()
    assert "--web.listen-address=127.0.0.1:9090" in compose["services"]["prometheus"]["command"]
    assert compose["services"]["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert all(isinstance(value, str) for value in compose["services"]["grafana"]["environment"].values())


def test_compose_mounts_what_is_written_where_it_is_looked_for(compose: dict[str, Any]) -> None:
    written, services = files.deployed(), compose["services"]
    for service in services.values():
        for source, target, *_ in (mount.split(":") for mount in service["volumes"]):
            if source.startswith("./"):
                assert any(name.startswith(source.removeprefix("./") + "/") for name in written), source
                assert target.startswith("/etc/")
            else:
                assert source in compose["volumes"]
    (provider,) = yaml.safe_load(deployment.dashboards())["providers"]
    assert any(mount.split(":")[1] == provider["options"]["path"] for mount in services["grafana"]["volumes"])
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert json.loads(written[home.removeprefix("/etc/")])["uid"]
    (source,) = yaml.safe_load(deployment.datasource())["datasources"]
    assert source["url"] == f"http://127.0.0.1:{deployment.PROMETHEUS_PORT}"
