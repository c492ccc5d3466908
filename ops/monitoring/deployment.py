"""What Prometheus and Grafana are started with, beside a job on the same host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ops.monitoring.yaml_text import text

CONTROL_PORT = 9400
"""`network.control_port` of a run that is watched."""
PROMETHEUS_PORT, GRAFANA_PORT = 9090, 3000
PROMETHEUS_IMAGE, GRAFANA_IMAGE = "prom/prometheus:v3.5.0", "grafana/grafana:12.1.0"
SCRAPE_S, EVALUATE_S, KEEP = 5, 15, "30d"


def prometheus(control_ports: Sequence[int] = (CONTROL_PORT,), *, scrape: str = f"{SCRAPE_S}s", evaluate: str = f"{EVALUATE_S}s") -> str:
    """Prometheus' configuration: all processes of the runs whose supervisors listen on these ports, as they come and go.

    Labels of the metrics win over those of the target: `rba_processes{role="learner"}` counts learners, though the supervisor says so.
    """
    discovery = [{"url": f"http://127.0.0.1:{port}/v1/targets", "refresh_interval": scrape} for port in control_ports]

    def job(name: str, action: str) -> dict[str, Any]:
        relabel = [{"source_labels": ["role"], "regex": "ray", "action": action}]
        return {"job_name": name, "honor_labels": True, "http_sd_configs": discovery, "relabel_configs": relabel}

    return text(
        {
            "global": {"scrape_interval": scrape, "scrape_timeout": scrape, "evaluation_interval": evaluate},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [job("rba", "drop"), job("ray", "keep")],
        }
    )


def datasource() -> str:
    """Grafana's source of data."""
    source = {
        "name": "Prometheus",
        "uid": "prometheus",
        "type": "prometheus",
        "access": "proxy",
        "url": f"http://127.0.0.1:{PROMETHEUS_PORT}",
        "isDefault": True,
        "jsonData": {"timeInterval": f"{SCRAPE_S}s", "httpMethod": "POST"},
    }
    return text({"apiVersion": 1, "datasources": [source]})


def dashboards() -> str:
    """Where Grafana finds its dashboards."""
    provider = {"name": "rba", "type": "file", "allowUiUpdates": False, "options": {"path": "/etc/grafana/dashboards"}}
    return text({"apiVersion": 1, "providers": [provider]})


def compose() -> str:
    """Prometheus and Grafana on the host's network, for supervisors listen on loopback alone; so do these."""
    grafana = {
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": str(GRAFANA_PORT),
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": "/etc/grafana/dashboards/rba.json",
    }
    return text(
        {
            "name": "rba-monitoring",
            "services": {
                "prometheus": {
                    "image": PROMETHEUS_IMAGE,
                    "network_mode": "host",
                    "restart": "unless-stopped",
                    "command": [
                        "--config.file=/etc/prometheus/prometheus.yaml",
                        "--storage.tsdb.path=/prometheus",
                        f"--storage.tsdb.retention.time={KEEP}",
                        f"--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}",
                    ],
                    "volumes": ["./prometheus:/etc/prometheus:ro", "prometheus:/prometheus"],
                },
                "grafana": {
                    "image": GRAFANA_IMAGE,
                    "network_mode": "host",
                    "restart": "unless-stopped",
                    "depends_on": ["prometheus"],
                    "environment": grafana,
                    "volumes": [
                        "./grafana/provisioning:/etc/grafana/provisioning:ro",
                        "./grafana/dashboards:/etc/grafana/dashboards:ro",
                        "grafana:/var/lib/grafana",
                    ],
                },
            },
            "volumes": {"prometheus": None, "grafana": None},
        }
    )
