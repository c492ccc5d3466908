"""The alerts of a run that a Prometheus server has firing."""

from __future__ import annotations

from typing import Any

from protocol.errors import RbaError

TIMEOUT_S = 5.0


def firing(url: str, run: str) -> list[dict[str, str]]:
    """Name, severity, summary, process and beginning of each that fires for `run`, or for no run in particular.

    Raises `RbaError` where Prometheus does not answer.
    """
    import httpx

    try:
        answer = httpx.get(f"{url.rstrip('/')}/api/v1/alerts", timeout=TIMEOUT_S, trust_env=False)
        answer.raise_for_status()
        found = answer.json()["data"]["alerts"]
        return [_told(alert) for alert in found if alert["state"] == "firing" and alert["labels"].get("run", run) == run]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RbaError(f"Prometheus at {url} does not tell its alerts: {type(error).__name__}: {error}") from error


def _told(alert: dict[str, Any]) -> dict[str, str]:
    labels, notes = alert["labels"], alert.get("annotations", {})
    return {
        "name": labels.get("alertname", ""),
        "severity": labels.get("severity", ""),
        "process": labels.get("process", ""),
        "summary": notes.get("summary", ""),
        "since": alert.get("activeAt", ""),
    }
