"""The sections of a Checkpoint's spec that the data plane needs; the operator's `spec` extends some of them."""

from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from pydantic import (
    Field,
)

from dcp_contract.durations import Duration
from dcp_contract.message import ClassName, Glob, Url, Wire


class Strategy(StrEnum):
    """How the worker shards the model over the ranks."""

    FSDP2 = "fsdp2"
    FSDP1 = "fsdp1"
    HSDP = "hsdp"
    DDP = "ddp"
    NONE = "none"


class Device(StrEnum):
    """Where the model lives: `cuda` with NCCL, `cpu` with gloo, `auto` takes what the pod has."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


class Storage(Wire):
    """Where the checkpoint stands."""

    url: Url = Field(description="fsspec URL of the checkpoint, such as s3://bucket/run/step-1000. No chained URLs.")
    options: dict[str, Any] = Field(
        default_factory=dict,
        max_length=32,
        description="Non-secret storage options, such as endpointUrl and region. Secrets go to credentialsSecretRef.",
    )


class Workload(Wire):
    """What builds the model and the optimizer, in the worker image."""

    entrypoint: str = Field(
        min_length=3,
        max_length=253,
        pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$",
        description="module:Class of the workload in the worker image, called with args in every rank, such as "
        "my_pkg.train:Workload.",
    )
    args: dict[str, Any] = Field(
        default_factory=dict, max_length=64, description="Keyword arguments of the entrypoint; the same in every rank."
    )
    allow: list[ClassName] = Field(
        default_factory=list,
        max_length=64,
        description="Classes that objects in the checkpoint may be of, beside the common ones, such as my_pkg.Config. "
        "Each is imported, and its code runs on a Load.",
    )


class Parallelism(Wire):
    """How the model is sharded."""

    strategy: Strategy = Field(
        default=Strategy.FSDP2,
        description="fsdp2 (fully_shard), fsdp1 (FullyShardedDataParallel), hsdp (replicated shards), ddp or none.",
    )
    replicate: int = Field(
        default=1, ge=1, le=4096, description="With hsdp: number of replica groups; divides the number of ranks."
    )


class Workers(Wire):
    """How many ranks, and on what."""

    num_nodes: int = Field(default=1, ge=1, le=4096, description="How many pods an attempt has.")
    num_proc_per_node: int = Field(
        default=1, ge=1, le=64, description="Ranks per pod; with device: cuda also GPUs per pod."
    )
    device: Device = Field(
        default=Device.AUTO, description="auto uses a GPU if the pod has one, cuda fails without one, cpu uses none."
    )

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.num_nodes * self.num_proc_per_node


class LoadSelection(Wire):
    """Which part of a checkpoint is loaded."""

    strict: bool = Field(
        default=True,
        description="Fail if a selected entry is on one side alone: in the checkpoint, or in the workload. Of parts "
        "(model, optim, each key of the extra state) that the workload does not have nothing is asked.",
    )
    include: list[Glob] = Field(
        default_factory=list,
        max_length=64,
        description="Globs over names of entries (model.*, optim.*) to load. Empty means all.",
    )
    exclude: list[Glob] = Field(
        default_factory=list, max_length=64, description="Globs over names of entries to leave out."
    )

    @property
    def whole(self) -> bool:
        """Whether everything that the workload has is to be loaded."""
        return self.strict and not self.include and not self.exclude


class Source(LoadSelection):
    """What to start from: one of a committed checkpoint, a folder of safetensors, a file of torch.save."""

    url: Url | None = Field(
        default=None,
        description="fsspec URL of a committed checkpoint, read with the storage options of this object.",
    )
    safetensors: Url | None = Field(
        default=None,
        description="In place of url: fsspec URL of a folder of safetensors, as Hugging Face lays a model out. The "
        "model's weights are loaded from it; the optimizer and extra state begin anew.",
    )
    torch: Url | None = Field(
        default=None,
        description="In place of url: fsspec URL of a file of torch.save, of a model's state dict or of a dict with "
        "one at model. The model's weights are loaded from it; the optimizer and extra state begin anew.",
    )

    @property
    def given(self) -> list[str]:
        """The names of the fields that say where it stands; one of a source that can be."""
        return [name for name in SOURCE_FIELDS if getattr(self, name) is not None]

    @property
    def place(self) -> str:
        """The URL that is read."""
        return self.url or self.safetensors or self.torch or ""


SOURCE_FIELDS: Final = ("url", "safetensors", "torch")
"""The fields of a Source of which one says where it stands."""


class CleanFields(Wire):
    """Which leftovers a Clean removes."""

    min_age: Duration = Field(
        default=timedelta(days=1),
        json_schema_extra={"default": "1d"},
        description="How old the newest file of a dead save, copy or export has to be, by the store's clock: at least "
        "1h, and longer than one file of a save takes to be written. Replaced data go when their own time is over.",
    )
    dry_run: bool = Field(
        default=False, description="Remove nothing and write nothing; say what would go, in status and in the log."
    )
    recursive: bool = Field(
        default=False,
        description="storage.url is a prefix: clean what lies there, and at every checkpoint's URL below it.",
    )
