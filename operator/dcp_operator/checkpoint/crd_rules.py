"""What the API server itself refuses: CEL rules with messages that say what to write instead.

They say again what `rules` says, for those who apply with kubectl and read the answer at once; `rules` remains the
authority. Rules that compare with the old object keep a spec still: only MUTABLE_FIELDS may change. The free-form
fields args and podTemplate have no schema that CEL could compare; an admission policy and `decide` hold those.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Rule:
    """One CEL rule on the schema at `at`, a path below the object."""

    at: tuple[str, ...]
    cel: str
    message: str
    field: str = ""
    """The field below `at` that a refusal names."""

    def to_dict(self) -> dict[str, str]:
        """Return the entry of x-kubernetes-validations."""
        field = {"fieldPath": f".{self.field}"} if self.field else {}
        return {"rule": self.cel, "message": self.message, **field}


_SPEC: Final = ("spec",)
_STORAGE: Final = ("spec", "storage")
_WORKLOAD: Final = ("spec", "workload")
_WORKERS: Final = ("spec", "workers")
_PARALLELISM: Final = ("spec", "parallelism")
_WORLD: Final = "self.workers.numNodes * self.workers.numProcPerNode"


def _still(at: tuple[str, ...], field: str, *, optional: bool = False) -> Rule:
    same = f"self.{field} == oldSelf.{field}"
    if optional:
        same = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || {same})"
    return Rule(at, same, f"{'.'.join([*at, field])} is immutable; apply a new Checkpoint", field)


def _kept(at: tuple[str, ...], field: str) -> Rule:
    """Return the rule that an optional section stays there, or stays away; its own fields have their own rules."""
    name = ".".join([*at, field])
    return Rule(
        at, f"has(self.{field}) == has(oldSelf.{field})", f"{name} can't be added or removed; apply a new Checkpoint"
    )


RULES: Final = (
    Rule(
        (),
        "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
        "metadata.name is a label too; write at most 63 of a-z, 0-9 and '-'",
    ),
    Rule(
        _STORAGE,
        "!self.url.contains('::')",
        "chained URLs are not accepted; write the address of the store itself, such as s3://bucket/path",
        "url",
    ),
    Rule(
        _STORAGE,
        "self.url.contains('::') || self.url.matches('^[a-z][a-z0-9]*://.')",
        "write protocol://bucket/path, such as s3://bucket/run/step-1000, or file:///path for a mounted volume",
        "url",
    ),
    Rule(
        _SPEC,
        "self.operation == 'Verify' || has(self.workload)",
        "a Save or a Load needs a workload; write workload: {entrypoint: my_pkg.train:Workload}",
        "workload",
    ),
    Rule(
        _SPEC,
        "self.operation != 'Verify' || !has(self.workload)",
        "a Verify builds no model; drop workload, or write operation: Load",
        "workload",
    ),
    Rule(
        _SPEC,
        f"self.operation != 'Verify' || {_WORLD} == 1",
        "a Verify runs as one process; write numNodes: 1 and numProcPerNode: 1",
        "workers",
    ),
    Rule(
        _SPEC,
        "self.operation == 'Save' || !self.storage.overwrite",
        "only a Save writes; drop storage.overwrite, or write operation: Save",
        "storage.overwrite",
    ),
    Rule(
        _SPEC,
        "self.operation != 'Load' || !has(self.workload) || (self.workload.steps == 0 && !has(self.workload.from))",
        "steps and from are for a Save; drop them, and write the URL to load as storage.url",
        "workload",
    ),
    Rule(
        _PARALLELISM,
        "self.strategy == 'hsdp' ? self.replicate > 1 : self.replicate == 1",
        "hsdp takes replicate: 2 or more, every other strategy replicate: 1",
        "replicate",
    ),
    Rule(
        _SPEC,
        f"self.parallelism.strategy != 'hsdp' || {_WORLD} >= 2 * self.parallelism.replicate",
        "hsdp needs at least two ranks per replica group; write more workers, fewer replicas, or strategy: ddp",
        "parallelism.replicate",
    ),
    Rule(
        _SPEC,
        f"self.parallelism.strategy != 'hsdp' || ({_WORLD}) % self.parallelism.replicate == 0",
        "numNodes x numProcPerNode must be divisible by replicate",
        "parallelism.replicate",
    ),
    _still(_SPEC, "operation"),
    _still(_STORAGE, "url"),
    _still(_STORAGE, "overwrite"),
    _still(_STORAGE, "options", optional=True),
    _still(_STORAGE, "credentialsSecretRef", optional=True),
    _kept(_SPEC, "workload"),
    _still(_WORKLOAD, "entrypoint"),
    _still(_WORKLOAD, "steps"),
    _still(_WORKLOAD, "from", optional=True),
    _kept(_WORKLOAD, "args"),
    _still(_SPEC, "parallelism"),
    _still(_WORKERS, "numNodes"),
    _still(_WORKERS, "numProcPerNode"),
    _still(_WORKERS, "device"),
    _still(_WORKERS, "image", optional=True),
    _kept(_WORKERS, "podTemplate"),
    _still(_SPEC, "load"),
    _still(_SPEC, "retries"),
    _still(_SPEC, "timeouts"),
)
