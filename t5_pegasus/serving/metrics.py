"""Metrics for Prometheus: requests, latency, batches, queue; those of all processes together if there are several."""

import os

import prometheus_client
from prometheus_client import multiprocess

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

# The variable with the folder where prometheus_client adds up the processes of a service; it reads it when imported.
MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one process of the service."""

    def __init__(self) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        registry = self._registry
        if MULTIPROCESS_DIR not in os.environ:  # these cannot be added up over processes
            prometheus_client.ProcessCollector(registry=registry)
            prometheus_client.PlatformCollector(registry=registry)
        self.requests = prometheus_client.Counter(
            "t5_pegasus_requests", "Requests answered", ("route", "status"), registry=registry
        )
        self.request_seconds = prometheus_client.Histogram(
            "t5_pegasus_request_seconds", "Seconds to answer", ("route",), registry=registry, buckets=_SECONDS
        )
        self.batch_size = prometheus_client.Histogram(
            "t5_pegasus_batch_size",
            "Texts decoded together",
            registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self.batch_seconds = prometheus_client.Histogram(
            "t5_pegasus_batch_seconds", "Seconds to decode a batch", registry=registry, buckets=_SECONDS
        )
        self.queue_seconds = prometheus_client.Histogram(
            "t5_pegasus_queue_seconds", "Seconds a text waited", registry=registry, buckets=_SECONDS
        )
        self.queue_length = prometheus_client.Gauge(
            "t5_pegasus_queue_length", "Texts waiting", registry=registry, multiprocess_mode="livesum"
        )
        self.in_progress = prometheus_client.Gauge(
            "t5_pegasus_requests_in_progress", "Requests in progress", registry=registry, multiprocess_mode="livesum"
        )
        self.connections = prometheus_client.Gauge(
            "t5_pegasus_connections", "Connections open", registry=registry, multiprocess_mode="livesum"
        )
        self.dropped = prometheus_client.Counter(
            "t5_pegasus_connections_dropped", "Connections dropped", ("reason",), registry=registry
        )
        self.source_tokens = prometheus_client.Counter(
            "t5_pegasus_source_tokens", "Tokens of texts decoded", registry=registry
        )
        self.title_tokens = prometheus_client.Counter(
            "t5_pegasus_title_tokens", "Tokens of the best titles", registry=registry
        )

        self.titles = prometheus_client.Counter(
            "t5_pegasus_titles", "Texts answered, by adapter; none is the model itself", ("adapter",), registry=registry
        )

    def render(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        if MULTIPROCESS_DIR not in os.environ:
            return prometheus_client.generate_latest(self._registry)
        registry = prometheus_client.CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return prometheus_client.generate_latest(registry)
