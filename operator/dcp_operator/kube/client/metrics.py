"""What the operator counts, in Prometheus' terms; served on /metrics."""

from collections import Counter as Counts
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from dcp_operator.api.json_types import ReadBody
from dcp_operator.kube.client.api import ObjectKey

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)


def _version(package: str) -> str:
    """Return the version of an installed package; a source tree that is merely on the path has none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


class Phases(Collector):
    """How many Checkpoints there are in each phase and namespace, as of the moment that it is asked for: an index."""

    def __init__(self) -> None:
        self._phases: dict[ObjectKey, str] = {}

    def note(self, key: ObjectKey, body: ReadBody) -> None:
        """Take in where a Checkpoint stands; one that no operator has looked at yet is Pending."""
        self._phases[key] = str((body.get("status") or {}).get("phase") or "Pending")

    def drop(self, key: ObjectKey) -> None:
        """Forget a Checkpoint that is gone."""
        self._phases.pop(key, None)

    def collect(self) -> Iterable[Metric]:
        """Yield the gauge."""
        family = GaugeMetricFamily(
            "dcp_checkpoints", "Checkpoints by namespace and phase.", labels=("namespace", "phase")
        )
        counts = Counts((key.namespace, phase) for key, phase in self._phases.items())
        for labels, count in sorted(counts.items()):
            family.add_metric(labels, count)
        yield family


PHASES: Final = Phases()
REGISTRY.register(PHASES)
BUILD: Final = Info("dcp_build", "Which operator this is.", registry=REGISTRY)
BUILD.info({"version": _version("dcp-operator"), "kopf": _version("kopf"), "kubernetes": _version("kubernetes")})

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
    "Objects that the last resync found newer in the API server than the watch had delivered, by kind.",
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
START_SECONDS: Final = Histogram(
    "dcp_checkpoint_start_seconds",
    "From the start of a Checkpoint's first attempt until every pod of it runs, time in a queue included.",
    ["operation"],
    buckets=(1, 3, 10, 30, 60, 180, 600, 1800, 3600, 14400),
    registry=REGISTRY,
)
DELETIONS: Final = Counter(
    "dcp_deletions",
    "Checkpoints with deletionPolicy Delete that went, by what became of their data: removed, kept (not removed in "
    "time), namespace (kept, since the namespace was deleted), or nothing to remove.",
    ["data"],
    registry=REGISTRY,
)
IN_SERVICE: Final = Gauge(
    "dcp_in_service", "1 once the cache is complete and Checkpoints are worked on.", registry=REGISTRY
)
AGENTS: Final = Gauge("dcp_agents", "Agents of trainings that are connected.", registry=REGISTRY)
CHANNEL_CONNECTIONS: Final = Gauge(
    "dcp_channel_connections", "Connections of the channel to trainings.", registry=REGISTRY
)
CHANNEL_REFUSALS: Final = Counter(
    "dcp_channel_refusals",
    "Calls of the channel that were refused, by HTTP status; `connection`: closed before its handshake.",
    ["status"],
    registry=REGISTRY,
)
EVICTIONS: Final = Counter(
    "dcp_evictions",
    "Evictions that were put before this process: let through, held, or let through since it failed at them.",
    ["answer"],
    registry=REGISTRY,
)
LEADING: Final = Gauge("dcp_leading", "1 while this replica holds the Lease.", registry=REGISTRY)


def render() -> bytes:
    """Return the text exposition of every metric."""
    return generate_latest(REGISTRY)
