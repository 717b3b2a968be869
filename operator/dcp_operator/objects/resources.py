"""What a worker asks of its node: CPU, memory and GPUs, and the little that a probe asks for."""

import copy
import re
from collections.abc import Mapping
from typing import Any, Final

from dcp_contract.sections import Device
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import WORKER_CONTAINER
from dcp_operator.controllers.checkpoint.actions import CreateAttempt

_GPU: Final = re.compile(r"gpu|/mig-", re.IGNORECASE)
"""Names of GPUs as extended resources: nvidia.com/gpu, nvidia.com/gpu.shared, nvidia.com/mig-1g.10gb, amd.com/gpu,
gpu.intel.com/i915, aliyun.com/gpu-mem."""
_PER_RANK: Final = {"cpu": (100, "m"), "memory": (512, "Mi")}
"""Requests of a worker whose template says nothing of them: a pod without any is the first to be evicted."""
_PROBE: Final = {"cpu": "500m", "memory": "1Gi"}
_PROBE_LIMITS: Final = {"cpu": "2", "memory": "2Gi"}
"""Where the template has limits: a quota may ask for them."""
_PORTABLE: Final = re.compile(r"(kubernetes\.io/(os|arch)|topology\.kubernetes\.io/(zone|region))")
"""Labels of nodes that say nothing of their GPUs."""


def set_resources(pod: Body, checkpoint: Checkpoint, action: CreateAttempt) -> None:
    """Fill in what the worker's container asks for, where its template leaves it open."""
    worker = next(each for each in pod["containers"] if each["name"] == WORKER_CONTAINER)
    workers = action.task.workers
    resources = {key: value for key, value in (worker.get("resources") or {}).items() if value is not None}
    asked = {name for section in ("limits", "requests") for name in resources.get(section, {})}
    if action.task.probe:
        limits = {name: value for name, value in _PROBE_LIMITS.items() if name in resources.get("limits", {})}
        worker["resources"] = {"requests": dict(_PROBE)} | ({"limits": limits} if limits else {})
        return
    gpu = checkpoint.spec.workers.gpu_resource
    has_gpu = bool(resources.get("claims")) or gpu in asked or any("/" in name and _GPU.search(name) for name in asked)
    if workers.device is Device.CUDA and not has_gpu:
        resources["limits"] = {**resources.get("limits", {}), gpu: workers.num_proc_per_node}
    # Requests of containers have to fit into those of the pod.
    if not pod.get("resources"):
        ranks = workers.num_proc_per_node
        missing = {name: f"{each * ranks}{unit}" for name, (each, unit) in _PER_RANK.items() if name not in asked}
        if missing:
            resources["requests"] = {**resources.get("requests", {}), **missing}
    if resources:
        worker["resources"] = resources


def for_probe(template: Mapping[str, Any], *, keep_place: bool) -> Body:
    """Return a template of a pod that needs no GPU, and that any node may run.

    Args:
        template: The user's.
        keep_place: Whether it has to run where the workers do, for the sake of their volumes.
    """
    result: Body = copy.deepcopy(dict(template))
    pod = result.get("spec") or {}
    for field in ("resources", "resourceClaims"):
        pod.pop(field, None)
    if _GPU.search(str(pod.get("runtimeClassName"))) or "nvidia" in str(pod.get("runtimeClassName")):
        pod.pop("runtimeClassName")
    if not keep_place:
        for field in ("affinity", "topologySpreadConstraints"):
            pod.pop(field, None)
        selector = {key: value for key, value in (pod.pop("nodeSelector", None) or {}).items() if _portable(key)}
        pod |= {"nodeSelector": selector} if selector else {}
    for kind in ("containers", "initContainers"):
        for container in pod.get(kind) or ():
            resources = container.get("resources") or {}
            resources.pop("claims", None)
            for section in resources.values():
                for name in [name for name in section or () if "/" in name]:
                    del section[name]
    return result


def _portable(label: str) -> bool:
    return _PORTABLE.fullmatch(label) is not None
