"""The Checkpoint's spec: its fields with their defaults, and what follows from them.

The sections that the data plane needs extend those of `dcp_contract.sections`. The CRD is generated from these models.
"""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Final

from pydantic import Field

from dcp_contract.checkpoint_info import Origin, Provenance
from dcp_contract.message import Url, Wire
from dcp_contract.operations import OperationMembers
from dcp_contract.sections import Device, Parallelism, Storage, Workers, Workload
from dcp_contract.storage_options import engine_options
from dcp_contract.task import Task
from dcp_operator.api.checkpoint.in_store import InStore, StoreUse
from dcp_operator.api.checkpoint.spec_digest import spec_digest
from dcp_operator.api.checkpoint.storage_key import place
from dcp_operator.api.checkpoint.target import Target
from dcp_operator.api.naming import LABEL, SERIES_NAME_LIMIT, job_name

_HANG_SECONDS: Final = 300.0
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
SecretName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
ResourceName = Annotated[
    str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
]
SeriesName = Annotated[str, Field(min_length=1, max_length=SERIES_NAME_LIMIT, pattern=rf"^{LABEL.pattern}$")]
AccountName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
RunId = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]


class DeletionPolicy(StrEnum):
    """What becomes of the data when a Checkpoint object is deleted; as of a volume or a volume snapshot."""

    RETAIN = "Retain"
    DELETE = "Delete"


class SecretRef(Wire):
    """A Secret in the Checkpoint's own namespace."""

    name: SecretName = Field(description="Name of the Secret.")


class StorageAccess(Storage):
    """Where something stands, and with which credentials."""

    credentials_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the like, as environment of the ranks; "
        "and ca.crt, the authorities to trust. Shuts the workers out of the node's cloud identity.",
    )
    ca_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret whose ca.crt holds the authorities to trust; default that of credentialsSecretRef.",
    )
    service_account_name: AccountName | None = Field(
        default=None,
        description="ServiceAccount of the worker pods: the identity that a cloud gives it is theirs. The one of a "
        "podTemplate goes before.",
    )


class LatestOf(Wire):
    """The newest committed checkpoint of a series."""

    series: SeriesName = Field(description="Name of the CheckpointSeries, in the Checkpoint's own namespace.")


class StorageSpec(InStore, StorageAccess):
    """Where the checkpoint stands, and with which credentials."""

    url: Url = Field(
        default="",
        description=f"{Storage.model_fields['url'].description} May be left out with a target: the training then saves "
        "to step-<n> below its own prefix.",
    )
    latest_of: LatestOf | None = Field(
        default=None,
        description="In place of url, for a Load or a Verify: the newest committed checkpoint of a series, looked up "
        "once, when the first attempt starts. Options and credentials that are left out are those that it was saved "
        "with.",
    )


class WorkersSpec(Workers):
    """How many ranks, on what, and in which pods."""

    image: str | None = Field(
        default=None, min_length=1, max_length=512, description="Worker image. Default: the operator's --worker-image."
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
        description="Seconds within which every pod has to run. Time in a queue or suspended does not count.",
    )
    active_seconds: int = Field(default=3600, ge=1, le=604_800, description="Seconds that each attempt may run.")
    deletion_seconds: int = Field(
        default=3600,
        ge=1,
        le=604_800,
        description="With deletionPolicy Delete: seconds that the removal of the data may take, waiting and retries "
        "included, from the deletion of the Checkpoint on. Then the Checkpoint goes, and what is left of its data "
        "stays.",
    )


class CheckpointSpec(OperationMembers):
    """One operation on one checkpoint.

    Only suspend, ttlSecondsAfterFinished, runId, retries, timeouts and deletionPolicy may change.
    """

    storage: StorageSpec = Field(
        default=StorageSpec(), description="Where the checkpoint stands; required unless a target is given."
    )
    workload: Workload | None = Field(
        default=None, description="What builds the model; required for a Load, and for a Save without a target."
    )
    target: Target | None = Field(
        default=None,
        description="A Save of a training that runs already, in place of a workload: its dcp_agent is asked. It has "
        "its own credentials and ranks.",
    )
    parallelism: Parallelism = Field(default=Parallelism(), description="How the model is sharded over the ranks.")
    workers: WorkersSpec = Field(default=WorkersSpec(), description="How many ranks, and on what.")
    retries: int = Field(
        default=2, ge=0, le=20, description="Attempts that may follow failed ones. A preempted attempt is not counted."
    )
    timeouts: Timeouts = Field(default=Timeouts(), description="How long an attempt may take.")
    suspend: bool = Field(
        default=False, description="true stops the attempt and starts no other until it is false again."
    )
    ttl_seconds_after_finished: int = Field(
        default=86_400,
        ge=-1,
        le=31_536_000,
        description="Seconds that a finished Checkpoint keeps its Jobs, with their pods and logs; -1 keeps them as "
        "long as the Checkpoint. The Checkpoint and its data stay.",
    )
    deletion_policy: DeletionPolicy = Field(
        default=DeletionPolicy.RETAIN,
        description="What becomes of what a Save has saved when its Checkpoint is deleted: Retain leaves it, Delete "
        "removes it first. Not for a target, whose training has its own credentials. Whatever else is deleted with a "
        "namespace, its data stay.",
    )
    run_id: RunId = Field(
        default="", description="Change it, to a value that it has not had, to run the operation again."
    )


MUTABLE_FIELDS: Final = ("suspend", "ttlSecondsAfterFinished", "runId", "retries", "timeouts", "deletionPolicy")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A Checkpoint object: who it is, what it asks for, and what follows from that."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    created: datetime = _EPOCH
    deleting: bool = False
    queue: str = ""
    """Kueue's queue, from the label: its Jobs start suspended and are left to Kueue."""
    before_disruption: bool = False
    """A pod of the training is about to be evicted, and waits for this Save."""
    spec: CheckpointSpec
    queue_labels: dict[str, str] = field(default_factory=dict)
    """Kueue's labels: the queue, and what else a Job says to Kueue (priority class, longest time)."""
    reported: str = ""
    """The save that it tells of, from the label: a training made it by itself, and none is asked for."""
    cluster_id: str = ""
    """uid of the namespace kube-system; empty where it is not known."""
    store: StoreUse | None = None
    """What the store came to that its storage names; None where it names none."""
    unread: tuple[str, ...] = ()
    """What is wrong with fields that were left out of a spec that had begun: no further attempt is made of it."""

    @property
    def origin(self) -> Origin:
        """Who this run is in the manifest of what it saves."""
        return Origin(namespace=self.namespace, name=self.name, uid=self.uid, run_id=self.spec.run_id)

    @property
    def provenance(self) -> Provenance:
        """The same with the cluster and the spec, by which another object of this name is told from it."""
        spec = self.spec
        asked = (spec.run_id, spec.storage.url, spec.workload, spec.of_save)
        digest = spec_digest(*asked) if spec.operation.traits.writes else ""
        return Provenance(**dict(self.origin), cluster_id=self.cluster_id, spec_digest=digest)

    @cached_property
    def place(self) -> str:
        """What two Checkpoints of one namespace share exactly when they work on the same place."""
        storage = self.spec.storage
        secret = storage.credentials_secret_ref.name if storage.credentials_secret_ref is not None else ""
        return place(storage, secret, self.spec.workers.pod_template, self.uid)

    @cached_property
    def source_place(self) -> str:
        """The same of the place that a Save starts from, or a Copy copies; empty where there is none."""
        source, storage = self.spec.source_url, self.spec.storage
        if not source:
            return ""
        secret = storage.credentials_secret_ref.name if storage.credentials_secret_ref is not None else ""
        read = storage.model_copy(update={"url": source})
        return place(read, secret, self.spec.workers.pod_template, self.uid)

    @cached_property
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
        spec, origin, bare = self.spec, self.provenance, self.origin.to_dict()
        return Task(
            operation=spec.operation,
            origin=origin,
            attempt=attempt,
            storage=Storage(url=spec.storage.url, options=engine_options(spec.storage.options)),
            workload=spec.workload,
            parallelism=spec.parallelism,
            workers=Workers(
                num_nodes=1 if probe else spec.workers.num_nodes,
                num_proc_per_node=1 if probe else spec.workers.num_proc_per_node,
                device=Device.CPU if probe else spec.workers.device,
            ),
            active_seconds=spec.timeouts.active_seconds,
            hang_seconds=min(_HANG_SECONDS, spec.timeouts.active_seconds / 2),
            probe=probe,
            # A worker of an earlier release saves without them: what it saves is never adopted.
            ignorable=[f"origin.{each}" for each, said in origin.to_dict().items() if said and each not in bare],
            **spec.members,  # type: ignore[arg-type] # each is of the type that the same class gives it
        )


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
