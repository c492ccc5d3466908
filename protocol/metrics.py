"""The exporter that a process serves its metrics from (see `protocol.catalogue`)."""

from __future__ import annotations

import itertools
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from wsgiref.simple_server import WSGIServer

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from protocol.catalogue import CATALOGUE, Metric
from protocol.errors import RbaError, UserError

# A second series beside each counter and histogram, which nobody reads.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

MOST_SERIES = 1000
"""Of one metric, whose labels may have values from elsewhere; all others count together, as `other`."""
_BY_NAME = {metric.name: metric for metric in CATALOGUE}


class UnknownMetricError(RbaError):
    """A name, label or role that the catalogue does not have: a bug of the caller."""


class Metrics:
    """The metrics of one process, in a registry of its own. Thread-safe.

    A gauge without labels is exported from the first time that it is set: until then nobody knows its value, and 0 would be one.
    """

    def __init__(self, role: str, process_id: str = "", *, bare: bool = False) -> None:
        """`bare`: of the catalogue only `rba_build_info`, for a process that leaves the rest of its role's work to another one."""
        self.role, self.process_id = role, process_id
        self.registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.PlatformCollector(registry=self.registry)
        self._collectors: dict[str, Counter | Gauge | Histogram] = {
            metric.name: _collector(metric, self.registry)
            for metric in CATALOGUE
            if role in metric.exporters and not (bare and metric.name != "rba_build_info")
        }
        self._unset = {name: each for name, each in self._collectors.items() if isinstance(each, Gauge) and not _BY_NAME[name].labels}
        self._server: WSGIServer | None = None
        self._series: dict[str, set[tuple[str, ...]]] = {}
        self.set("rba_build_info", 1, version=_version(), python=platform.python_version())

    def inc(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        found = self._find(name, labels)
        if not isinstance(found, Counter):
            raise UnknownMetricError(f"{name} is a {_BY_NAME[name].kind}, no counter")
        found.inc(value)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        found = self._find(name, labels)
        if not isinstance(found, Gauge):
            raise UnknownMetricError(f"{name} is a {_BY_NAME[name].kind}, no gauge")
        found.set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add an observation to a histogram."""
        found = self._find(name, labels)
        if not isinstance(found, Histogram):
            raise UnknownMetricError(f"{name} is a {_BY_NAME[name].kind}, no histogram")
        found.observe(value)

    def succeeded(self, name: str) -> None:
        """Set a gauge to the time of this moment."""
        self.set(name, time.time())

    def ask(self, name: str, value: Callable[[], float]) -> None:
        """Have a gauge ask for its value whenever it is read; `value` must not raise."""
        found = self._find(name, {})
        if not isinstance(found, Gauge):
            raise UnknownMetricError(f"{name} is a {_BY_NAME[name].kind}, no gauge")
        found.set_function(value)

    def declare(self, name: str, **values: Iterable[str]) -> None:
        """Export a metric at zero for all these values of its labels: a rate that begins with the first event misses that one."""
        for combination in itertools.product(*values.values()):
            self._find(name, dict(zip(values, combination, strict=True)))

    def refusals(self, socket: str) -> Callable[[str], None]:
        """Counts who was kept out of `socket`, by reason (see `protocol.gate.Refusal`)."""
        from protocol.gate import Refusal  # it loads ZeroMQ, which not every process needs

        self.declare("rba_authentication_failures_total", socket=[socket], reason=Refusal)
        return lambda reason: self.inc("rba_authentication_failures_total", socket=socket, reason=reason)

    def messages_refused(self, reason: str) -> None:
        """A message from an actor was none (see `protocol.errors.ProtocolError.reason`)."""
        self.inc("rba_messages_refused_total", reason=reason)

    def serve_beside(self, registry: CollectorRegistry, prefix: str) -> None:
        """Serve also what a library has registered elsewhere, now or later, under names that begin with `prefix`."""
        self.registry.register(_Beside(registry, prefix))

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)

    def serve(self, bind: str = "127.0.0.1", port: int = 0) -> str:
        """Serve `/metrics` from a thread of its own and return its URL. Port 0 takes a free one."""
        try:
            server, _ = prometheus_client.start_http_server(port, bind, registry=self.registry)
        except OSError as error:
            raise UserError(
                f"port {port} cannot be listened on ({error.strerror})", where=f"metrics of {self.role}", fix="choose another port"
            ) from error
        self._server = server
        host = f"[{bind}]" if ":" in bind else bind
        return f"http://{host}:{server.server_port}/metrics"

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            server, self._server = self._server, None
            # `shutdown` waits for the server's next look, half a second at worst, and a role stops faster than that.
            threading.Thread(target=_shut_down, args=(server,), daemon=True).start()

    def _find(self, name: str, labels: dict[str, str]) -> Counter | Gauge | Histogram:
        found = self._collectors.get(name)
        if found is None:
            raise UnknownMetricError(f"{name} is not in the catalogue of a {self.role}")
        expected = _BY_NAME[name].labels
        if set(labels) != set(expected):
            raise UnknownMetricError(f"{name} has the labels {list(expected)}, not {sorted(labels)}")
        unset = self._unset.pop(name, None)
        if unset is not None:
            self.registry.register(unset)
        if not expected:
            return found
        values, known = tuple(labels[label] for label in expected), self._series.setdefault(name, set())
        if values not in known and len(known) >= MOST_SERIES:
            values = ("other",) * len(values)
        known.add(values)
        return found.labels(*values)


class _Beside(Collector):
    """Another registry's metrics; asked at each scrape, for what it holds comes and goes."""

    def __init__(self, registry: CollectorRegistry, prefix: str) -> None:
        self._registry, self._prefix = registry, prefix

    def describe(self) -> list[Family]:
        """None that are known ahead."""
        return []

    def collect(self) -> Iterator[Family]:
        """See `prometheus_client.registry.Collector`."""
        return (family for family in self._registry.collect() if family.name.startswith(self._prefix))


def _collector(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if metric.kind == "counter":
        return Counter(metric.name, metric.meaning, metric.labels, registry=registry)
    if metric.kind == "gauge":
        return Gauge(metric.name, metric.meaning, metric.labels, registry=registry if metric.labels else None)
    return Histogram(metric.name, metric.meaning, metric.labels, registry=registry, buckets=metric.buckets)


def _shut_down(server: WSGIServer) -> None:
    server.shutdown()
    server.server_close()


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("rba")
    except metadata.PackageNotFoundError:
        return "unknown"
