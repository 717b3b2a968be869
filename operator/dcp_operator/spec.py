"""The Checkpoint's spec: its fields with their defaults, and what is wrong with one, in lines that say how to mend it.

The sections that the data plane needs extend those of `dcp_worker.contract`. The CRD is generated from these models.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self

from pydantic import Field, ValidationError

from dcp_operator.naming import API_VERSION, KIND, NAME_LIMIT, QUEUE_LABEL, job_name
from dcp_operator.pod_template import mounted_paths, template_problems
from dcp_operator.problems import problems
from dcp_operator.storage_url import DEFAULT_PROTOCOLS, option_problems, protocol, url_key, url_problems
from dcp_worker.contract import (
    Device,
    LoadSelection,
    Operation,
    Origin,
    Parallelism,
    Storage,
    Strategy,
    Task,
    Wire,
    Workers,
    Workload,
)

_HANG_SECONDS: Final = 300.0
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")

SecretName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
RunId = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]


class SpecError(Exception):
    """A manifest that can't be worked on as it is; its author mends every listed problem and applies it again."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        """One line each: `field: what is wrong; write ...`."""


class SecretRef(Wire):
    """A Secret in the Checkpoint's own namespace."""

    name: SecretName = Field(description="Name of the Secret.")


class StorageSpec(Storage):
    """Where the checkpoint stands, and with which credentials."""

    credentials_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the like; its ca.crt is mounted as a file.",
    )


class WorkersSpec(Workers):
    """How many ranks, on what, and in which pods."""

    image: str | None = Field(
        default=None, min_length=1, max_length=512, description="Worker image. Default: the one the operator runs with."
    )
    pod_template: dict[str, Any] = Field(
        default_factory=dict,
        max_length=2,
        description="Merged into the worker pods: resources, nodeSelector, tolerations, volumes, env, serviceAccountName.",
    )


class Timeouts(Wire):
    """How long an attempt may take."""

    start_seconds: int = Field(
        default=600,
        ge=1,
        le=604_800,
        description="Seconds until every pod runs; stands still while queued or suspended.",
    )
    active_seconds: int = Field(default=3600, ge=1, le=604_800, description="Seconds of running, per attempt.")


class CheckpointSpec(Wire):
    """One operation on one checkpoint. Immutable once set, save for suspend, ttlSecondsAfterFinished and runId."""

    operation: Operation = Field(
        description="Save writes a checkpoint, Load reads it into a model, Verify checks its bytes."
    )
    storage: StorageSpec = Field(description="Where the checkpoint stands.")
    workload: Workload | None = Field(default=None, description="What builds the model; required for Save and Load.")
    parallelism: Parallelism = Field(default=Parallelism(), description="How the model is sharded.")
    workers: WorkersSpec = Field(default=WorkersSpec(), description="How many ranks, and on what.")
    load: LoadSelection = Field(default=LoadSelection(), description="Which part of the checkpoint a Load reads.")
    retries: int = Field(
        default=2, ge=0, le=20, description="Attempts after the first; a preempted one is not counted."
    )
    timeouts: Timeouts = Field(default=Timeouts(), description="How long an attempt may take.")
    suspend: bool = Field(
        default=False, description="true stops the attempt and starts no other until it is false again."
    )
    ttl_seconds_after_finished: int | None = Field(
        default=86_400,
        ge=0,
        le=31_536_000,
        description="When to remove the Jobs of a finished Checkpoint; never its data.",
    )
    run_id: RunId = Field(default="", description="Change it to run the operation again.")


MUTABLE_FIELDS: Final = ("suspend", "ttlSecondsAfterFinished", "runId")


class Checkpoint(Wire):
    """A Checkpoint object: who it is, and what it asks for."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    created: datetime = datetime.fromtimestamp(0, UTC)
    deleting: bool = False
    queue: str = ""
    """Kueue's queue, from the label: its Jobs start suspended and are left to Kueue."""
    spec: CheckpointSpec

    @property
    def origin(self) -> Origin:
        """Who this run is in the manifest of what it saves."""
        return Origin(namespace=self.namespace, name=self.name, uid=self.uid, run_id=self.spec.run_id)

    @property
    def nodes(self) -> int:
        """Pods of an attempt."""
        return self.spec.workers.num_nodes

    @property
    def url_key(self) -> str:
        """What two Checkpoints share exactly when they work on the same place."""
        storage = self.spec.storage
        match protocol(storage.url):
            case "memory":
                return f"{self.uid}/{storage.url}"
            case "file":
                volumes = (self.spec.workers.pod_template.get("spec") or {}).get("volumes")
                return f"{self.namespace}/{_digest(volumes)}/{url_key(storage)}"
            case _:
                return url_key(storage)

    @property
    def free_form_digest(self) -> str:
        """Digest of the fields that the CRD's rules can't hold still, since they have no schema."""
        spec = self.spec
        workload = spec.workload
        return _digest([workload and workload.args, spec.storage.options, spec.workers.pod_template])

    def job_name(self, attempt: int) -> str:
        """Return the name of an attempt's Job."""
        return job_name(self.name, self.uid, self.spec.run_id, attempt)

    def task(self, attempt: int, *, probe: bool = False) -> Task:
        """Return what the pods of an attempt are told. A probe is one process that only looks for an earlier commit."""
        spec = self.spec
        return Task(
            operation=spec.operation,
            origin=self.origin,
            attempt=attempt,
            storage=Storage(url=spec.storage.url, options=spec.storage.options, overwrite=spec.storage.overwrite),
            workload=spec.workload,
            parallelism=spec.parallelism,
            workers=Workers(
                num_nodes=1 if probe else spec.workers.num_nodes,
                num_proc_per_node=1 if probe else spec.workers.num_proc_per_node,
                device=Device.CPU if probe else spec.workers.device,
            ),
            load=spec.load,
            active_seconds=spec.timeouts.active_seconds,
            hang_seconds=min(_HANG_SECONDS, spec.timeouts.active_seconds / 2),
            probe=probe,
        )


class Site(Wire):
    """Where a Checkpoint is to run, as far as it matters to what its spec may say."""

    protocols: tuple[str, ...] = DEFAULT_PROTOCOLS
    file_needs_volume: bool = True
    """A path of a pod's own file system is gone with the pod."""

    @classmethod
    def local(cls) -> Self:
        """Return the site of `dcp run`: this machine's files are there to stay, and tests may use memory."""
        return cls(protocols=(*DEFAULT_PROTOCOLS, "memory"), file_needs_volume=False)


CLUSTER: Final = Site()
LOCAL: Final = Site.local()


def parse(body: Mapping[str, Any], *, site: Site = LOCAL) -> Checkpoint:
    """Return the Checkpoint of a manifest or of a live object.

    The operator and `dcp validate` pass `site=CLUSTER`, which refuses what only makes sense on one machine.

    Raises:
        SpecError: with every problem found; the object's author mends them.
    """
    found = list(_envelope_problems(body))
    spec: CheckpointSpec | None = None
    try:
        text = json.dumps(body.get("spec"), allow_nan=False)
        spec = CheckpointSpec.model_validate_json(text, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        found += problems(error, CheckpointSpec, "spec")
    except (TypeError, ValueError):
        found.append("spec: holds a value that JSON does not have, such as a date or NaN; write it in quotes")
    if spec is not None:
        found += _spec_problems(spec, site)
    if found or spec is None:
        raise SpecError(found)
    return _with_metadata(body.get("metadata") or {}, spec)


def _with_metadata(metadata: Mapping[str, Any], spec: CheckpointSpec) -> Checkpoint:
    created = metadata.get("creationTimestamp")
    return Checkpoint(
        name=metadata["name"],
        namespace=metadata.get("namespace") or "default",
        uid=metadata.get("uid") or "",
        generation=metadata.get("generation") or 1,
        created=datetime.fromisoformat(created) if isinstance(created, str) else datetime.fromtimestamp(0, UTC),
        deleting=bool(metadata.get("deletionTimestamp")),
        queue=(metadata.get("labels") or {}).get(QUEUE_LABEL, ""),
        spec=spec,
    )


def _envelope_problems(body: Mapping[str, Any]) -> Iterator[str]:
    if body.get("apiVersion", API_VERSION) != API_VERSION:
        yield f"apiVersion: is another group or version; write {API_VERSION}"
    if body.get("kind", KIND) != KIND:
        yield f"kind: is another kind; write {KIND}"
    for key in body.keys() - {"apiVersion", "kind", "metadata", "spec", "status"}:
        yield f"{key}: unknown field; write apiVersion, kind, metadata, spec"
    metadata = body.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(name, str) or not name:
        yield "metadata.name: is missing; write a name such as save-1000"
    elif not _LABEL.fullmatch(name) or len(name) > NAME_LIMIT:
        yield f"metadata.name: names a Job and its pods; write at most {NAME_LIMIT} of a-z, 0-9 and '-', no '-' at the ends"


def _spec_problems(spec: CheckpointSpec, site: Site) -> Iterator[str]:
    """Yield what the models alone can't see: rules between fields."""
    yield from url_problems("spec.storage.url", spec.storage.url, site.protocols)
    yield from option_problems(spec.storage)
    if spec.workload is not None and spec.workload.from_ is not None:
        yield from url_problems("spec.workload.from.url", spec.workload.from_.url, site.protocols)
        if protocol(spec.workload.from_.url) != protocol(spec.storage.url):
            yield "spec.workload.from.url: is read with the options of spec.storage; write a URL of the same protocol"
    yield from _operation_problems(spec)
    yield from _world_problems(spec)
    yield from template_problems(spec.workers.pod_template)
    yield from _place_problems(spec, site)


def _operation_problems(spec: CheckpointSpec) -> Iterator[str]:
    operation, workload = spec.operation, spec.workload
    if workload is None and operation is not Operation.VERIFY:
        yield f"spec.workload: is missing, and a {operation} needs it; write workload: {{entrypoint: my_pkg.train:Workload}}"
    if operation is Operation.VERIFY:
        if workload is not None:
            yield "spec.workload: a Verify builds no model; drop workload, or write operation: Load"
        if spec.workers.world_size > 1:
            yield "spec.workers: a Verify runs as one process; write numNodes: 1 and numProcPerNode: 1"
        if spec.workers.device is Device.CUDA:
            yield "spec.workers.device: a Verify needs no GPU; drop device"
    if operation is not Operation.SAVE:
        if spec.storage.overwrite:
            yield f"spec.storage.overwrite: a {operation} writes nothing; drop overwrite, or write operation: Save"
        if workload is not None and workload.steps:
            yield f"spec.workload.steps: steps run before a Save; drop steps from this {operation}"
        if workload is not None and workload.from_ is not None:
            yield f"spec.workload.from: only a Save starts from another checkpoint; write its URL as the {operation}'s storage.url"
    reads = operation is Operation.LOAD or (workload is not None and workload.from_ is not None)
    if not reads and spec.load != LoadSelection():
        yield f"spec.load: this {operation} loads nothing; drop load"


def _world_problems(spec: CheckpointSpec) -> Iterator[str]:
    parallelism, world = spec.parallelism, spec.workers.world_size
    if spec.operation is Operation.VERIFY:
        return
    replicate = parallelism.replicate
    if parallelism.strategy is not Strategy.HSDP:
        if replicate != 1:
            yield f"spec.parallelism.replicate: only hsdp has replica groups; write strategy: hsdp, or drop replicate: {replicate}"
        return
    if replicate == 1:
        yield "spec.parallelism.replicate: hsdp with one replica group is fsdp2; write replicate: 2 or more, or strategy: fsdp2"
    elif world < replicate:
        yield (
            f"spec.parallelism.replicate: {replicate} replica groups need at least {2 * replicate} ranks, but numNodes x "
            f"numProcPerNode is {world}; write more workers or fewer replicas"
        )
    elif world % replicate:
        yield (
            f"spec.parallelism.replicate: {world} ranks (numNodes x numProcPerNode) can't be divided into {replicate} "
            "equal groups; write a divisor"
        )
    elif world == replicate:
        yield (
            f"spec.parallelism.replicate: {replicate} groups of one rank shard nothing; write strategy: ddp, or at least "
            f"{2 * replicate} ranks"
        )


def _place_problems(spec: CheckpointSpec, site: Site) -> Iterator[str]:
    url = spec.storage.url
    if protocol(url) == "memory" and spec.workers.world_size > 1:
        yield "spec.storage.url: memory lives in one process; write one rank, or file:///path"
    if protocol(url) == "file" and site.file_needs_volume:
        path = url.removeprefix("file://")
        paths = mounted_paths(spec.workers.pod_template)
        if not any(path.startswith(mount.rstrip("/") + "/") for mount in paths):
            yield (
                "spec.storage.url: a path of the pod's own file system is gone with the pod; mount a volume over it in "
                "spec.workers.podTemplate (containers: [{name: worker, volumeMounts: [...]}]), or write s3://..."
            )


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
