"""The Checkpoint's spec: its fields with their defaults, and what is wrong with one, in lines that say how to mend it.

The sections that the data plane needs extend those of `dcp_worker.contract`. The CRD is generated from these models.
"""

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self

from pydantic import AwareDatetime, ConfigDict, Field, ValidationError

from dcp_operator.checkpoint.bounds import FREE_FORM, LEVELS, TOO_DEEP, TOO_LARGE, deeper, larger
from dcp_operator.checkpoint.naming import API_VERSION, KIND, NAME_LIMIT, QUEUE_LABEL, job_name, queue_labels
from dcp_operator.checkpoint.place import place
from dcp_operator.checkpoint.pod_rules import PodSecurity
from dcp_operator.checkpoint.problems import problems
from dcp_operator.checkpoint.rules import rule_problems
from dcp_operator.checkpoint.storage_url import DEFAULT_PROTOCOLS
from dcp_worker.contract import (
    Device,
    LoadSelection,
    Operation,
    Origin,
    Parallelism,
    Storage,
    Task,
    Wire,
    Workers,
    Workload,
)

_TOO_DEEP: Final = f"spec: {TOO_DEEP}"
_HANG_SECONDS: Final = 300.0
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")

SecretName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
ResourceName = Annotated[
    str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
]
RunId = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]


class SpecError(Exception):
    """A manifest that can't be worked on as it is; its author mends every listed problem and applies it again."""

    def __init__(self, problems: list[str], *, configured: bool = False, writable: bool = True) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        """One line each: `field: what is wrong; write ...`."""
        self.configured = configured
        """Nothing is wrong with the manifest itself: an operator that is configured otherwise would accept it."""
        self.writable = writable
        """Whether its status can be written without keeping the API server busy for seconds."""


class SecretRef(Wire):
    """A Secret in the Checkpoint's own namespace."""

    name: SecretName = Field(description="Name of the Secret.")


class StorageSpec(Storage):
    """Where the checkpoint stands, and with which credentials."""

    credentials_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the like, as environment of the ranks; "
        "and ca.crt, the authorities to trust. Shuts the workers out of the node's cloud identity.",
    )
    ca_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret whose ca.crt holds the authorities to trust, where they come without credentials, or from "
        "another Secret than these.",
    )


class WorkersSpec(Workers):
    """How many ranks, on what, and in which pods."""

    image: str | None = Field(
        default=None, min_length=1, max_length=512, description="Worker image. Default: the one the operator runs with."
    )
    pod_template: dict[str, Any] = Field(
        default_factory=dict,
        max_length=2,
        description="Merged into worker pods: resources, nodeSelector, tolerations, volumes, env, serviceAccountName.",
    )
    gpu_resource: ResourceName = Field(
        default="nvidia.com/gpu",
        description="Extended resource that device: cuda asks for, one per rank. Nothing is added where podTemplate "
        "has the worker ask for a GPU already, by a resource or by a claim.",
    )


class Timeouts(Wire):
    """How long an attempt may take."""

    start_seconds: int = Field(
        default=600,
        ge=1,
        le=604_800,
        description="Seconds until every pod runs; they do not count while queued or suspended.",
    )
    active_seconds: int = Field(default=3600, ge=1, le=604_800, description="Seconds of running, per attempt.")


class CheckpointSpec(Wire):
    """One operation on one checkpoint. Only suspend, ttlSecondsAfterFinished, runId, retries, timeouts may change."""

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
    ttl_seconds_after_finished: int = Field(
        default=86_400,
        ge=-1,
        le=31_536_000,
        description="When the Jobs of a finished Checkpoint are removed; -1 keeps them as long as the Checkpoint. "
        "Neither it nor its data ever goes by itself.",
    )
    run_id: RunId = Field(default="", description="Change it to run the operation again.")


MUTABLE_FIELDS: Final = ("suspend", "ttlSecondsAfterFinished", "runId", "retries", "timeouts")


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
    queue_labels: dict[str, str] = Field(default_factory=dict)
    """Kueue's labels: the queue, and what else a Job says to Kueue (priority class, longest time)."""
    unread: tuple[str, ...] = ()
    """What is wrong with fields that were left out of a spec that had begun: no further attempt is made of it."""

    @property
    def origin(self) -> Origin:
        """Who this run is in the manifest of what it saves."""
        return Origin(namespace=self.namespace, name=self.name, uid=self.uid, run_id=self.spec.run_id)

    @property
    def nodes(self) -> int:
        """Pods of an attempt."""
        return self.spec.workers.num_nodes

    @property
    def place(self) -> str:
        """What two Checkpoints of one namespace share exactly when they work on the same place."""
        storage = self.spec.storage
        secret = storage.credentials_secret_ref.name if storage.credentials_secret_ref is not None else ""
        return place(storage, secret, self.spec.workers.pod_template, self.uid)

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


class _Metadata(Wire):
    """What is read of an object's metadata; the API server vouches for it, a file on this machine does not."""

    model_config = ConfigDict(extra="ignore")

    name: Any = None
    """Looked at with the envelope, which says more about it."""
    namespace: str | None = None
    uid: str | None = None
    generation: int | None = None
    creation_timestamp: AwareDatetime | None = None
    deletion_timestamp: AwareDatetime | None = None
    labels: dict[str, str] | None = None


class Site(Wire):
    """Where a Checkpoint is to run, as far as it matters to what its spec may say."""

    protocols: tuple[str, ...] = DEFAULT_PROTOCOLS
    file_needs_volume: bool = True
    """A path of a pod's own file system is gone with the pod."""
    pod_security: PodSecurity = PodSecurity.RESTRICTED

    @classmethod
    def local(cls) -> Self:
        """Return the site of `dcp run`: this machine's files are there to stay, and tests may use memory."""
        return cls(
            protocols=(*DEFAULT_PROTOCOLS, "memory"), file_needs_volume=False, pod_security=PodSecurity.NAMESPACE
        )

    def widest(self) -> Self:
        """Return the site of an operator that is configured to accept all that there is."""
        protocols = (*DEFAULT_PROTOCOLS, *(each for each in self.protocols if each not in DEFAULT_PROTOCOLS))
        return self.model_copy(update={"protocols": protocols, "pod_security": PodSecurity.NAMESPACE})


CLUSTER: Final = Site()
LOCAL: Final = Site.local()


def parse(body: Mapping[str, Any], *, site: Site = CLUSTER, begun: bool = False) -> Checkpoint:
    """Return the Checkpoint of a manifest or of a live object.

    `dcp run` passes `site=LOCAL`, which accepts what only makes sense on one machine.

    Args:
        body: The manifest.
        site: Where it is to run.
        begun: An attempt was made of it, so it was accepted once. Rules of today no longer apply to it, and what can't
            be read is left out, as long as the rest makes sense: an operator that is newer, older or configured
            otherwise brings it to its end.

    Raises:
        SpecError: with every problem found; the object's author mends them.
    """
    try:
        return _begun(body) if begun else _parsed(body, site)
    except SpecError as error:
        if not begun and _accepted(body, site.widest()):
            error.configured = True
        raise
    except Exception as error:
        # Free-form fields hold what nobody thought of. It is that object's trouble, never that of the others.
        raise SpecError(
            [f"spec: can't be read ({type(error).__name__}); write each value with its own type"]
        ) from error


def _accepted(body: Mapping[str, Any], site: Site) -> bool:
    try:
        _parsed(body, site)
    except Exception:  # noqa: BLE001 - it was refused already, for a reason that is told
        return False
    return True


def _begun(body: Mapping[str, Any]) -> Checkpoint:
    """Return a Checkpoint without its fields that can't be read."""
    spec: Any = copy.deepcopy(body.get("spec"))
    unread: list[str] = []
    while (error := _finding(spec)) is not None:
        # One at a time: several findings may be about one field.
        unread += list(problems(error, CheckpointSpec, "spec"))[:1]
        if not _left_out(spec, error.errors()[0]["loc"]):
            break
    return _parsed({**body, "spec": spec}, None).model_copy(update={"unread": tuple(unread)})


def _finding(spec: object) -> ValidationError | None:
    try:
        _validated(spec)
    except ValidationError as error:
        return error
    return None


def _left_out(spec: object, location: tuple[int | str, ...]) -> bool:
    """Remove the innermost field that a finding names; return whether there is one."""
    at, found = spec, None
    for part in location:
        if not isinstance(at, dict) or part not in at:
            break
        found, at = (at, part), at[part]
    if found is None:
        return False
    del found[0][found[1]]
    return True


def _validated(spec: object) -> CheckpointSpec:
    text = json.dumps(spec, allow_nan=False)
    return CheckpointSpec.model_validate_json(text, strict=True, by_alias=True, by_name=False)


def _parsed(body: Mapping[str, Any], site: Site | None) -> Checkpoint:
    """Return the Checkpoint; no site, no rules."""
    found = list(_envelope_problems(body))
    metadata: _Metadata | None = None
    spec: CheckpointSpec | None = None
    try:
        metadata = _Metadata.model_validate(body.get("metadata") or {})
    except ValidationError as error:
        found += problems(error, _Metadata, "metadata")
    try:
        spec = _validated(body.get("spec"))
    except ValidationError as error:
        found += problems(error, CheckpointSpec, "spec")
    except RecursionError:
        found.append(_TOO_DEEP)
    except (TypeError, ValueError):
        found.append("spec: holds a value that JSON does not have, such as a date or NaN; write it in quotes")
    if spec is not None and site is not None:
        found += [*_bound_problems(body.get("spec")), *rule_problems(spec, site)]
    if found or metadata is None or spec is None:
        raise SpecError(found)
    return Checkpoint(
        name=metadata.name,
        namespace=metadata.namespace or "default",
        uid=metadata.uid or "",
        generation=metadata.generation or 1,
        created=metadata.creation_timestamp or datetime.fromtimestamp(0, UTC),
        deleting=metadata.deletion_timestamp is not None,
        queue=(metadata.labels or {}).get(QUEUE_LABEL, ""),
        spec=spec,
        queue_labels=queue_labels(metadata.labels or {}),
    )


def _bound_problems(spec: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    for section, field in FREE_FORM:
        if deeper((spec.get(section) or {}).get(field), LEVELS):
            yield f"spec.{section}.{field}: {TOO_DEEP}"
    if larger(spec):
        yield TOO_LARGE


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
        yield f"metadata.name: is a label too; write at most {NAME_LIMIT} of a-z, 0-9 and '-', with no '-' at the ends"


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
