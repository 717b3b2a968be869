"""What the operator counts, in Prometheus' terms; served on /metrics."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY: Final = CollectorRegistry()

RECONCILES: Final = Counter("dcp_reconciles", "Reconciles by their end.", ["result"], registry=REGISTRY)
RECONCILE_SECONDS: Final = Histogram(
    "dcp_reconcile_seconds",
    "How long a reconcile takes, API calls included.",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
    registry=REGISTRY,
)
QUEUE_DEPTH: Final = Gauge("dcp_queue_depth", "Checkpoints that wait for a worker.", registry=REGISTRY)
CACHED: Final = Gauge("dcp_cached_objects", "Objects in the cache, by kind.", ["kind"], registry=REGISTRY)
API_REQUESTS: Final = Counter(
    "dcp_api_requests",
    "Requests to the API server, without watches; code is `none` where no answer came.",
    ["method", "resource", "code"],
    registry=REGISTRY,
)
STALE_OBJECTS: Final = Gauge(
    "dcp_watch_stale_objects",
    "Objects that the last audit found newer in the API server than the watch had delivered, by kind.",
    ["kind"],
    registry=REGISTRY,
)
FINISHED: Final = Counter(
    "dcp_checkpoints_finished",
    "Checkpoints that ended, by operation and reason.",
    ["operation", "reason"],
    registry=REGISTRY,
)
BYTES: Final = Counter(
    "dcp_checkpoint_bytes", "Bytes in the checkpoints of operations that succeeded.", ["operation"], registry=REGISTRY
)
SECONDS: Final = Histogram(
    "dcp_checkpoint_seconds",
    "From start to end of a Checkpoint.",
    ["operation"],
    buckets=(1, 3, 10, 30, 60, 180, 600, 1800, 3600),
    registry=REGISTRY,
)
IN_SERVICE: Final = Gauge(
    "dcp_in_service", "1 once the cache is complete and Checkpoints are worked on.", registry=REGISTRY
)
LEADING: Final = Gauge("dcp_leading", "1 while this replica holds the Lease.", registry=REGISTRY)


def render() -> bytes:
    """Return the text exposition of every metric."""
    return generate_latest(REGISTRY)
