"""`/metrics` in the format of Prometheus. Labels are few: no names, and no paths as clients sent them."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import StoreError
from .hub import Hub
from .responses import REFUSED

PATH = "/metrics"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one server, in a separate registry."""

    def __init__(self, hub: Hub) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "claude_bus_requests", "Requests answered", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "claude_bus_request_seconds",
            "Seconds until a request was answered, waiting included",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.under_way = 0
        """Requests not answered yet."""
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        """The counters of each combination of labels, of which there are few: to find them costs more than to count."""
        Gauge("claude_bus_requests_under_way", "Requests not answered yet", registry=self.registry).set_function(
            lambda: self.under_way
        )
        self.store_errors = Counter(
            "claude_bus_store_errors", "Requests that the store failed", ("code",), registry=self.registry
        )
        self.registry.register(_OfHub(hub))

    def routes(self) -> list[BaseRoute]:
        return [Route(PATH, self._show)]

    async def _show(self, _request: Request) -> Response:
        return Response(generate_latest(self.registry), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    def note(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = _template(scope)
        found = self._answered.get((method, route, status))
        if not found:
            found = self.requests.labels(method, route, str(status)), self.seconds.labels(method, route)
            self._answered[method, route, status] = found
        count, duration = found
        count.inc()
        duration.observe(seconds)
        error = scope.get("state", {}).get(REFUSED)
        if isinstance(error, StoreError):
            self.store_errors.labels(error.code).inc()


class _OfHub(Collector):
    """The figures of the hub, read when the metrics are requested."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("claude_bus_waiting", "Long polls and streams that wait", self._hub.waiting)
        yield CounterMetricFamily(
            "claude_bus_messages",
            "Messages stored on the bus while this server ran, by any process",
            self._hub.messages,
        )


def _template(scope: Scope) -> str:
    """Return the declared path of the route that answered; "other" if no route matched."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) and path else "other"


class Measure:
    """ASGI middleware in front of everything, including authentication."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 500, time.monotonic()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.under_way += 1
        try:
            await self._app(scope, receive, noted)
        finally:
            self._metrics.under_way -= 1
            self._metrics.note(scope, status, time.monotonic() - began)
