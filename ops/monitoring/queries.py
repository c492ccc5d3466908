"""PromQL for the dashboard, from names of the catalogue. `$run`, `$process` and `$__rate_interval` are filled in by Grafana."""

from __future__ import annotations

from protocol.catalogue import CATALOGUE, Metric

KNOWN = {metric.name: metric for metric in CATALOGUE}
RUN, PROCESS = 'run=~"$run"', 'run=~"$run", process=~"$process"'
RATE = "$__rate_interval"


def metric(name: str) -> Metric:
    """Of the catalogue. Raises `KeyError` for a name that is not in it."""
    return KNOWN[name]


def chosen(name: str, more: str = "") -> str:
    """Its series of the runs and processes that the dashboard shows."""
    metric(name)
    return f"{name}{{{PROCESS}{f', {more}' if more else ''}}}"


def gauge(name: str, by: str = "process", how: str = "max", more: str = "") -> str:
    """A gauge."""
    return f"{how} by ({by}) ({chosen(name, more)})"


def age(name: str, by: str = "process") -> str:
    """Seconds since the time that a gauge names."""
    return f"time() - max by ({by}) ({chosen(name)})"


def rate(name: str, by: str = "process", more: str = "") -> str:
    """How much a counter grows a second."""
    return f"sum by ({by}) (rate({chosen(name, more)}[{RATE}]))"


def mean(name: str, by: str = "process", more: str = "") -> str:
    """Mean of what a histogram has observed."""
    of = f"{{{PROCESS}{f', {more}' if more else ''}}}"
    metric(name)
    return f"sum by ({by}) (rate({name}_sum{of}[{RATE}])) / sum by ({by}) (rate({name}_count{of}[{RATE}]))"


def quantile(share: float, name: str, by: str = "run") -> str:
    """Of what a histogram has observed."""
    metric(name)
    return f"histogram_quantile({share:g}, sum by ({by}, le) (rate({name}_bucket{{{PROCESS}}}[{RATE}])))"


def vllm(name: str) -> str:
    """Series of vLLM. It names them ``vllm:…``, which the exporter writes as ``vllm_…`` for a Prometheus before version 3."""
    return f'{{__name__=~"vllm[:_]{name}", {PROCESS}}}'


def vllm_gauge(name: str) -> str:
    """A gauge of vLLM."""
    return f"sum by (process) ({vllm(name)})"


def vllm_rate(name: str, by: str = "process") -> str:
    """A counter of vLLM."""
    return f"sum by ({by}) (rate({vllm(name)}[{RATE}]))"
