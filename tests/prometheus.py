"""A real Prometheus, with the configuration that `rba monitoring write` leaves, on a free port of this machine."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from ops import ports
from ops.monitoring import deployment
from ops.monitoring.limits import Limits
from ops.monitoring.rules import rules
from tests import debian

SCRAPE = "500ms"
POLL_S = 0.1


class Prometheus:
    """Runs until it is closed; `query` and the others ask it over HTTP."""

    def __init__(self, folder: Path, discovery_ports: Sequence[int], limits: Limits | None = None) -> None:
        """`discovery_ports` are those of the supervisors, or of whoever serves ``/v1/targets``."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prometheus.yaml").write_text(deployment.prometheus(discovery_ports, scrape=SCRAPE, evaluate=SCRAPE))
        (folder / "rules.yaml").write_text(rules(limits))
        port = ports.free()
        self.url = f"http://127.0.0.1:{port}"
        self._http = httpx.Client(base_url=self.url, trust_env=False, timeout=10)
        command = [
            debian.program("prometheus"),
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with (folder / "output").open("w") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        self.until(self._ready, "Prometheus to be ready")

    def _ready(self) -> bool:
        assert self._process.poll() is None, (self._folder / "output").read_text()
        try:
            return self._http.get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series, now. Fails the test where Prometheus refuses the query."""
        answer = self._http.post("/api/v1/query", data={"query": expr})
        assert answer.is_success, f"{expr}: {answer.text}"
        return [(each["metric"], float(each["value"][1])) for each in answer.json()["data"]["result"]]

    def value(self, expr: str) -> float | None:
        """Of the only series, if there is one."""
        found = self.query(expr)
        return found[0][1] if len(found) == 1 else None

    def targets(self) -> dict[str, str]:
        """Health of the targets, by process."""
        active = self._http.get("/api/v1/targets", params={"state": "active"}).json()["data"]["activeTargets"]
        return {each["labels"]["process"]: each["health"] for each in active}

    def rules(self) -> list[dict[str, Any]]:
        """As it has loaded them, with their health."""
        groups = self._http.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def firing(self) -> set[str]:
        """Alerts that fire now."""
        alerts = self._http.get("/api/v1/alerts").json()["data"]["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def ever_fired(self) -> set[str]:
        """Alerts that have fired since it runs."""
        return {labels["alertname"] for labels, _ in self.query('last_over_time(ALERTS{alertstate="firing"}[1h])')}

    def until(self, condition: Callable[[], Any], what: str, limit_s: float = 60.0) -> Any:
        """The first true answer. Fails after `limit_s`."""
        give_up_s = time.monotonic() + limit_s
        while not (found := condition()):
            assert time.monotonic() < give_up_s, f"not within {limit_s:g} s: {what}"
            time.sleep(POLL_S)
        return found

    def close(self) -> None:
        self._http.close()
        self._process.terminate()
        self._process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
