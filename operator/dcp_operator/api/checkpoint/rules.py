"""Rules between the fields of a spec, each broken one said in a line `field: what is wrong; write ...`."""

import json
from collections.abc import Iterator, Mapping
from typing import Final

from dcp_contract.operations import Operation
from dcp_contract.sections import Device, Strategy
from dcp_operator.api.checkpoint.operations import rules_of
from dcp_operator.api.checkpoint.spec import CheckpointSpec
from dcp_operator.api.checkpoint.target_rules import target_problems
from dcp_operator.api.pod.rules import template_problems
from dcp_operator.api.pod.template import TemplateView
from dcp_operator.api.site import Site
from dcp_operator.api.storage_url import option_problems, protocol, url_problems

READERS: Final = " or ".join(f"{each.one}" for each in Operation if each.traits.reads)
_ARGS_LIMIT: Final = 65_536
"""The Task travels in one environment variable, of which the kernel takes 128 KiB."""


def rule_problems(spec: CheckpointSpec, site: Site) -> Iterator[str]:
    """Yield what the fields alone can't show."""
    if spec.storage.url:
        yield from url_problems("spec.storage.url", spec.storage.url, site.protocols)
    yield from _latest_problems(spec, site)
    if spec.target is not None:
        yield from target_problems(spec, spec.target, site)
        return
    if spec.storage.url or not (spec.storage.latest_of or spec.storage.is_in_store):
        yield from option_problems(spec.storage)
    yield from _workload_problems(spec)
    yield from _operation_problems(spec)
    yield from rules_of(spec.operation).problems(spec, site)
    yield from _replica_problems(spec)
    template = TemplateView.of(spec.workers.pod_template)
    yield from template_problems(template, site.pod_security)
    yield from _place_problems(spec, template, site)


def _latest_problems(spec: CheckpointSpec, site: Site) -> Iterator[str]:
    if spec.storage.latest_of is None:
        return
    if not spec.operation.traits.reads:
        yield f"spec.storage.latestOf: is for {READERS}, and this is {spec.operation.one}; write url"
    if not site.has_trainings:
        yield "spec.storage.latestOf: names a series in a cluster; write url, or apply it there with kubectl"


def _workload_problems(spec: CheckpointSpec) -> Iterator[str]:
    operation, workload = spec.operation, spec.workload
    if workload is None:
        if operation.traits.needs_workload:
            or_target = ", or a target" if operation.traits.takes_target else ""
            entrypoint = "{entrypoint: my_pkg.train:Workload}"
            yield f"spec.workload: is missing; write workload: {entrypoint} for {operation.one}{or_target}"
        return
    if not operation.traits.needs_workload:
        yield f"spec.workload: {operation.one} builds no model; drop workload, or write operation: Load"
    if len(json.dumps(workload.args)) > _ARGS_LIMIT:
        yield "spec.workload.args: is larger than 64 KiB; write the path of a file in the image or a ConfigMap"


def _operation_problems(spec: CheckpointSpec) -> Iterator[str]:
    """Yield what follows from what the registry says of the operation."""
    operation, workers = spec.operation, spec.workers
    for other in Operation:
        member = other.module
        if other is not operation and spec.members.get(member) is not None:
            mixed = f"is for {other.one}, and this is {operation.one}"
            yield f"spec.{member}: {mixed}; drop it, or write operation: {other}"
    if not operation.traits.needs_ranks:
        if workers.world_size > 1:
            yield f"spec.workers: {operation.one} runs as one process; write numNodes: 1 and numProcPerNode: 1"
        if workers.device is Device.CUDA:
            yield f"spec.workers.device: {operation.one} needs no GPU; drop device"


def _replica_problems(spec: CheckpointSpec) -> Iterator[str]:
    field, replicas = "spec.parallelism.replicate", spec.parallelism.replicate
    world = spec.workers.world_size
    if spec.parallelism.strategy is not Strategy.HSDP:
        if replicas > 1:
            yield f"{field}: only hsdp has replica groups; write strategy: hsdp, or drop replicate"
    elif replicas == 1:
        yield f"{field}: hsdp with one replica group is fsdp2; write replicate: 2 or more, or strategy: fsdp2"
    elif world < 2 * replicas:
        yield (
            f"{field}: {replicas} replica groups need at least {2 * replicas} ranks, and there are {world} (numNodes x "
            "numProcPerNode); write more workers or fewer replicas, or strategy: ddp"
        )
    elif world % replicas:
        yield f"{field}: {world} ranks can't be divided into {replicas} equal groups; write a divisor of {world}"


def _place_problems(spec: CheckpointSpec, template: TemplateView, site: Site) -> Iterator[str]:
    url = spec.storage.url
    where = protocol(url)
    if where == "memory" and spec.workers.world_size > 1:
        yield "spec.storage.url: memory lives in one process; write one rank, or file:///path"
    if where == "file" and site.file_needs_volume and isinstance(template.template.get("spec", {}), Mapping):
        path = url.removeprefix("file://")
        if not any(path.startswith(mount.rstrip("/") + "/") for mount in template.mounted_paths):
            yield (
                "spec.storage.url: a path of the pod's own file system is gone with the pod; mount a volume over it in "
                "spec.workers.podTemplate (containers: [{name: worker, volumeMounts: [...]}]), or write s3://..."
            )
