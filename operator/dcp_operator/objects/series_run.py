"""The Checkpoints that a series makes: its runs, and the Deletes of its retention. The same in, the same out."""

import copy
from collections.abc import Mapping

from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.naming import (
    API_VERSION,
    DISRUPTION_LABEL,
    EVICTED_POD_ANNOTATION,
    KIND,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    REPORTED_LABEL,
    SERIES_KIND,
    SERIES_LABEL,
)
from dcp_operator.api.series.spec import Series
from dcp_operator.controllers.series.actions import CreateRemoval, CreateReport, CreateRun
from dcp_operator.controllers.series.runs import REMOVES


def checkpoint_of_run(series: Series, action: CreateRun) -> Body:
    """Return the Checkpoint of a run."""
    return _run(series, action.name, {}, series.spec_of_run(action.scheduled))


def checkpoint_of_report(series: Series, action: CreateReport) -> Body:
    """Return the Checkpoint that tells of a save which the training made by itself."""
    spec = {
        "operation": series.run_spec["operation"],
        "target": series.run_spec["target"],
        "storage": {"url": action.url},
    }
    return _run(series, action.name, {REPORTED_LABEL: action.save}, spec)


def _run(series: Series, name: str, labels: Mapping[str, str], spec: Body) -> Body:
    """Return a Checkpoint with the labels and annotations of the template."""
    template = series.spec.template.metadata
    body = _checkpoint(series, name, {**template.labels, **labels}, spec)
    if template.annotations:
        body["metadata"]["annotations"] = dict(template.annotations)
    return body


def checkpoint_before_disruption(series: Series, name: str, pod_uid: str) -> Body:
    """Return the Save that comes before a disruption.

    Args:
        series: The series.
        name: What it is called.
        pod_uid: Of the pod whose eviction begins the disruption.
    """
    template = series.spec.template.metadata
    labels = {**template.labels, DISRUPTION_LABEL: "true"}
    body = _checkpoint(series, name, labels, series.run_spec)
    body["metadata"]["annotations"] = {**template.annotations, EVICTED_POD_ANNOTATION: pod_uid}
    return body


def checkpoint_of_removal(series: Series, action: CreateRemoval) -> Body:
    """Return the Delete of what a run has saved.

    Its pod is that of a run without what a run computes with: it has the same image, volumes, environment and account,
    since it has to get to the same store.
    """
    spec: Body = {
        "operation": REMOVES.value,
        "storage": action.storage,
        REMOVES.module: {"saveId": action.save_id},
    }
    if workers := removal_workers(series.run_spec.get("workers") or {}):
        spec["workers"] = workers
    return _checkpoint(series, action.name, {}, spec)


def removal_workers(given: ReadBody) -> Body:
    """Return the workers of a Delete: the image and the pod of what saved, without what that computed with."""
    workers = {key: given[key] for key in ("image", "podTemplate") if given.get(key)}
    if "podTemplate" in workers:
        workers["podTemplate"] = copy.deepcopy(workers["podTemplate"])
        pod = workers["podTemplate"].get("spec")
        containers = pod.get("containers") if isinstance(pod, dict) else None
        for each in containers if isinstance(containers, list) else ():
            if isinstance(each, dict):
                each.pop("resources", None)
    return workers


def _checkpoint(series: Series, name: str, labels: Mapping[str, str], spec: Body) -> Body:
    owner = {
        "apiVersion": API_VERSION,
        "kind": SERIES_KIND,
        "name": series.name,
        "uid": series.uid,
        "controller": True,
    }
    metadata = {
        "name": name,
        "namespace": series.namespace,
        "labels": {MANAGED_BY_LABEL: MANAGED_BY, **labels, SERIES_LABEL: series.name},
        "ownerReferences": [owner],
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}
