"""docs/metrics.md, from the catalogue."""

from __future__ import annotations

import re

from ops.monitoring.alerts import alerts
from ops.monitoring.limits import Limits
from protocol.catalogue import Metric, sections

HEAD = """# Metrics

<!-- Written by `make monitoring`. -->

Every process serves its metrics at `/metrics`, beside those of its Python process (`process_*`); rollout actors serve vLLM's
(`vllm:*`) too. The supervisor's `/v1/targets` lists all of them for Prometheus, with the labels `run`, `role` and `process`. A gauge
that nobody has set yet is not there. [The runbook](runbook.md) says how to watch a run and what to do when an alert fires.
"""


def metrics_page() -> str:
    """As markdown."""
    parts = [HEAD]
    for heading, metrics in sections():
        parts.append(f"## {heading}\n\n| metric | kind | unit | labels | exported by | meaning |\n|---|---|---|---|---|---|")
        parts[-1] += "".join(f"\n{_row(metric)}" for metric in metrics) + "\n"
    parts.append("## Alerts\n\n| alert | severity | fires when |\n|---|---|---|")
    parts[-1] += "".join(
        f"\n| [{each.name}](runbook.md#{each.anchor}) | {each.severity} | {_plain(each.summary)} |" for each in alerts(Limits())
    )
    return "\n".join(parts) + "\n"


def _row(metric: Metric) -> str:
    labels, roles = (", ".join(f"`{each}`" for each in some) for some in (metric.labels, metric.exporters))
    meaning = metric.meaning.replace("|", "\\|")
    return f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {roles.replace('`', '').replace('_', ' ')} | {meaning} |"


def _plain(summary: str) -> str:
    """With a word for each label."""
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda label: label[1].upper(), summary)
