"""Series and their runs for tests, told in few words; and what both the API server and the operator refuse of them."""

import copy
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.api.naming import run_name
from dcp_operator.api.series.parsing import parse
from dcp_operator.api.series.spec import Series, url_of_run
from dcp_operator.api.series.status import SeriesStatus
from dcp_operator.controllers.series.actions import CreateRun, DeleteRun, SeriesDecision
from dcp_operator.controllers.series.decide import decide
from dcp_operator.controllers.series.runs import Runs, SeriesRun
from scenes import NOW, stamp

SERIES_UID: Final = "0d3f5a0e-5e0c-4d3a-9a70-5f4f9f1c2b11"
PREFIX: Final = "s3://bucket/run"
NIGHTLY: Final[dict[str, Any]] = {
    "apiVersion": "dcp-operator.io/v1alpha1",
    "kind": "CheckpointSeries",
    "metadata": {"name": "nightly", "namespace": "team", "uid": SERIES_UID, "creationTimestamp": stamp(0)},
    "spec": {
        "every": "1h",
        "storage": {"url": PREFIX, "credentialsSecretRef": {"name": "s3"}},
        "template": {"spec": {"operation": "Save", "workload": {"entrypoint": "my_pkg.train:Workload"}}},
    },
}
VERIFY: Final = {
    "spec.storage": None,
    "spec.template.spec": {"operation": "Verify", "storage": {"url": "s3://bucket/run/step-1"}},
}
EXPORT: Final = {
    "spec.storage": None,
    "spec.template.spec": {
        "operation": "Export",
        "storage": {"url": "s3://models/mine"},
        "export": {"from": {"url": "s3://bucket/run/best"}, "ifExists": "Replace"},
    },
}
TARGET: Final = {"spec.template.spec": {"operation": "Save", "target": {"kind": "Job", "name": "train"}}}

Changes = Mapping[str, Any]


def series_manifest(changes: Changes | None = None) -> dict[str, Any]:
    """Return the manifest with dotted fields set; None removes one."""
    body = copy.deepcopy(NIGHTLY)
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        found = body
        for part in parents:
            found = found.setdefault(part, {})
        if value is None:
            found.pop(last, None)
        else:
            found[last] = copy.deepcopy(value)
    return body


def series(changes: Changes | None = None) -> Series:
    return parse(series_manifest(changes))


def hours(number: float) -> datetime:
    return NOW + timedelta(hours=number)


def run(hour: float, phase: Phase | None = None, *, took: float = 0.25, **fields: Any) -> SeriesRun:
    """Return the run of an hour: under way, or ended in a phase after `took` hours."""
    time = hours(hour)
    given: dict[str, Any] = {"operation": "Save", "url": url_of_run(PREFIX, time)}
    if phase is not None:
        given |= {"phase": phase, "ended": time + timedelta(hours=took), "reason": "Saved"}
    if phase is Phase.FAILED:
        given |= {"reason": "StorageDenied", "message": "The store refused the credentials."}
    name = run_name("nightly", time)
    given |= {"name": name, "uid": f"uid-{name}", "scheduled": time}
    return SeriesRun(**given | fields)


def decided(
    *runs: SeriesRun, of: Series | None = None, status: Mapping[str, Any] | None = None, now: datetime = NOW
) -> SeriesDecision:
    return decide(of or series(), Runs(all=runs), status or {}, now)


def created(decision: SeriesDecision) -> list[str]:
    return [each.name for each in decision.actions if isinstance(each, CreateRun)]


def deleted(decision: SeriesDecision) -> list[str]:
    return [each.name for each in decision.actions if isinstance(each, DeleteRun)]


def ready(decision: SeriesDecision) -> tuple[str, str, str]:
    """Return status, reason and message of the condition Ready."""
    found = next(each for each in SeriesStatus.read(decision.status).conditions if each.type == "Ready")
    return found.status, found.reason, found.message


BAD: Final[dict[str, tuple[Changes, str, str]]] = {
    "no schedule": ({"spec.every": None}, "spec", "has to say when; write one of schedule and every"),
    "no schedule, and nowhere to look for saves": (
        {"spec.every": None, "spec.storage": None, **TARGET},
        "spec",
        "has to say when; write one of schedule and every",
    ),
    "what no run could adopt": (
        {"spec.template.spec.save": {"ifExists": "Adopt"}},
        "spec.template.spec.save.ifExists",
        "no run of a series meets what another one has saved",
    ),
    "at once without a schedule": (
        {**TARGET, "spec.every": None, "spec.immediate": True},
        "spec.immediate",
        "is of a schedule; drop it, or write every",
    ),
    "two schedules": (
        {"spec.schedule": "0 2 * * *"},
        "spec",
        "has to say when; write one of schedule and every",
    ),
    "a zone of no schedule": ({"spec.timeZone": "Etc/UTC"}, "spec.timeZone", "is of a schedule; drop it"),
    "no time at all": ({"spec.every": "0s"}, "spec.every", "is no time between two runs; write one such as 30m"),
    "weeks": ({"spec.every": "1w"}, "spec.every", "h)?"),
    "four fields": (
        {"spec.every": None, "spec.schedule": "0 2 * *    "},
        "spec.schedule",
        "has not five fields; write minute, hour",
    ),
    "a name too long": ({"metadata.name": "n" * 48}, "metadata.name", "write at most 47 of a-z, 0-9 and '-'"),
    "a dot": ({"metadata.name": "a.b"}, "metadata.name", "write at most 47 of a-z, 0-9 and '-'"),
    "a Save without a prefix": ({"spec.storage": None}, "spec.storage", "is missing; write storage: {url:"),
    "a Save with a URL": (
        {"spec.template.spec.storage": {"url": "s3://bucket/x"}},
        "spec.template.spec.storage",
        "a Save of a series goes below spec.storage; move it there",
    ),
    "a Verify with a prefix": (
        {"spec.template.spec": VERIFY["spec.template.spec"]},
        "spec.storage",
        "is where a series saves",
    ),
    "a Verify of nothing": (
        {"spec.storage": None, "spec.template.spec": {"operation": "Verify"}},
        "spec.template.spec.storage",
        "is missing; write what",
    ),
    "a retention that gets nowhere": (
        {"spec.storage": None, **TARGET, "spec.retention": {"last": 3}},
        "spec.storage",
        "is missing; write where the training saves",
    ),
    "a retention of nothing": (
        {**VERIFY, "spec.retention": {"last": 3}},
        "spec.retention",
        "saves",
    ),
    "a retention of the last none": ({"spec.retention": {"last": 0}}, "spec.retention.last", ""),
    "a retention of no time": ({"spec.retention": {"within": "week"}}, "spec.retention.within", ""),
    "a retention of 0 s": ({"spec.retention": {"within": "0s"}}, "spec.retention.within", "is no time at all"),
    "a Delete of the latest": (
        {
            "spec.storage": None,
            "spec.template.spec": {"operation": "Delete", "storage": {"latestOf": {"series": "other"}}},
        },
        "spec.template.spec.storage.latestOf",
        "is for a Load or a Verify",
    ),
    "the same Export again": (
        {**EXPORT, "spec.template.spec.export.ifExists": None},
        "spec.template.spec.export.ifExists",
        "the second run of the series would find the model of the first; write Replace",
    ),
    "a training and ranks": (
        {"spec.storage": None, **TARGET, "spec.template.spec.workers": {"numNodes": 2}},
        "spec.template.spec.workers",
        "has its own; drop workers",
    ),
    "a disruption of no training": (
        {"spec.onDisruption": {"hold": "10m"}},
        "spec.onDisruption",
        "is for a series with a target",
    ),
    "no time to hold": (
        {**TARGET, "spec.onDisruption": {"hold": "0m"}},
        "spec.onDisruption.hold",
        "is no time that an eviction can wait; write one such as 10m, at most 24h",
    ),
    "days to hold": (
        {**TARGET, "spec.onDisruption": {"hold": "24h1s"}},
        "spec.onDisruption.hold",
        "is no time that an eviction can wait; write one such as 10m, at most 24h",
    ),
    "a hold that is no time": ({**TARGET, "spec.onDisruption": {"hold": "2d"}}, "spec.onDisruption.hold", "h)?"),
    "a chained prefix": ({"spec.storage.url": "simplecache::s3://b/x"}, "spec.storage.url", "chained URLs are not"),
    "a bucket": ({"spec.storage.url": "s3://bucket"}, "spec.storage.url", "names no path in a bucket"),
    "an option of another store": (
        {"spec.storage.options": {"accountName": "x"}},
        "spec.storage.options.accountName",
        "",
    ),
    "no workload": (
        {"spec.template.spec.workload": None},
        "spec.template.spec.workload",
        "workload",
    ),
    "our own label": (
        {"spec.template.metadata.labels": {"dcp-operator.io/series": "other"}},
        "spec.template.metadata.labels",
        "dcp-operator.io/ is the operator's own; drop",
    ),
    "a member of another operation": (
        {"spec.template.spec.load": {"strict": False}},
        "spec.template.spec.load",
        "is for a Load",
    ),
    "a secret in plain text": (
        {
            "spec.template.spec.workers.podTemplate": {
                "spec": {
                    "containers": [{"name": "worker", "env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": "hunter2"}]}]
                }
            }
        },
        "spec.template.spec.workers.podTemplate",
        "plain text",
    ),
    "a path that no volume holds": (
        {"spec.storage": {"url": "file:///data/run"}},
        "spec.storage.url",
        "a path of the pod's own file system is gone with the pod",
    ),
    "the metadata service": (
        {"spec.storage.options": {"endpointUrl": "http://169.254.169.254"}},
        "spec.storage.options.endpointUrl",
        "link-local and metadata addresses are refused",
    ),
}
"""By name: what is changed, the field that is named, and what is said of it by both."""

GOOD: Final[dict[str, Changes]] = {
    "as it is": {},
    "by cron": {"spec.every": None, "spec.schedule": "*/15 2-4 * * MON-FRI", "spec.timeZone": "Europe/Berlin"},
    "a restore drill": VERIFY,
    "a restore drill of the latest": {
        "spec.storage": None,
        "spec.template.spec": {"operation": "Verify", "storage": {"latestOf": {"series": "other"}}},
    },
    "an Export of what is replaced": EXPORT,
    "a queue": {"spec.template.metadata.labels": {"kueue.x-k8s.io/queue-name": "night"}},
    "a training that runs": {"spec.storage": None, **TARGET},
    "what a training saves by itself": {**TARGET, "spec.every": None, "spec.retention": {"last": 3}},
    "a training that runs, and a retention": {**TARGET, "spec.retention": {"last": 3}},
    "before a disruption": {**TARGET, "spec.onDisruption": {"hold": "1h30m"}},
    "before a disruption, by default": {**TARGET, "spec.onDisruption": {}},
    "before a disruption, for a day": {**TARGET, "spec.onDisruption": {"hold": "24h"}},
    "a retention": {"spec.retention": {"last": 3, "everySteps": 1000, "within": "14d"}},
    "a volume": {
        "spec.storage": {"url": "file:///data/run"},
        "spec.template.spec.workers.podTemplate": {
            "spec": {
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
                "containers": [{"name": "worker", "volumeMounts": [{"name": "v", "mountPath": "/data"}]}],
            }
        },
    },
    "every option": {
        "spec.suspend": True,
        "spec.immediate": True,
        "spec.concurrencyPolicy": "Replace",
        "spec.startingDeadlineSeconds": 60,
        "spec.historyLimit": {"successful": 1, "failed": 0},
    },
}
