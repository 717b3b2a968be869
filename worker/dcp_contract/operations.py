"""The registry of operations: what a Checkpoint can do, once, with the checkpoint at its URL.

An operation is a member of `Operation` and two modules of its name: `dcp_operator.api.checkpoint.operations.save` (what
its spec may say, when an attempt of it has ended) and `dcp_worker.operations.save` (what is asked of the store before
ranks start, what a rank does). Nothing else in the project compares operations: it asks for their traits.

An operation that has fields of its own has a member in `OperationMembers`, by the name of its modules.
"""

from dataclasses import dataclass
from enum import StrEnum
from types import NoneType
from typing import Self, get_args

from pydantic import Field

from dcp_contract.message import Glob, SaveId, Url, Wire
from dcp_contract.reasons import Reason
from dcp_contract.save_fields import ObjectUid, SaveFields
from dcp_contract.sections import CleanFields, LoadSelection


@dataclass(frozen=True, kw_only=True)
class OperationTraits:
    """What the rest of the project has to know of an operation."""

    result: Reason
    """The reason of a Checkpoint that has succeeded, and what node 0 reports then."""
    found: Reason | None = None
    """The same where it found done what it was to do, by somebody else; None where it looks for no such thing."""
    needs_workload: bool = False
    """It builds a model, so that its spec has a workload, and its ranks need what trains one."""
    needs_ranks: bool = False
    """It may run as many ranks, on GPUs. One without is one process on a CPU."""
    takes_target: bool = False
    """It may be asked of a training that runs already, in place of a workload of its own."""
    reads: bool = False
    """It reads the checkpoint at its URL and changes nothing there: so it may read the latest of a series."""
    writes: bool = False
    """It commits a checkpoint at its URL. An attempt of it that is lost may have committed all the same."""

    @property
    def results(self) -> tuple[Reason, ...]:
        """Every reason of a Checkpoint that has succeeded."""
        return (self.result,) if self.found is None else (self.result, self.found)


class Operation(StrEnum):
    """What a Checkpoint does, once, with the checkpoint at its URL."""

    traits: OperationTraits
    module: str
    """Name of the modules that are its two halves, and of its member in a spec, if it has one."""
    one: str
    """Its word with the article: `a Save`, `an Export`."""

    SAVE = (
        "Save",
        OperationTraits(
            result=Reason.SAVED,
            found=Reason.ALREADY_SAVED,
            needs_workload=True,
            needs_ranks=True,
            takes_target=True,
            writes=True,
        ),
    )
    LOAD = "Load", OperationTraits(result=Reason.LOADED, needs_workload=True, needs_ranks=True, reads=True)
    VERIFY = "Verify", OperationTraits(result=Reason.VERIFIED, reads=True)
    DELETE = "Delete", OperationTraits(result=Reason.DELETED)
    COPY = "Copy", OperationTraits(result=Reason.COPIED)
    VALIDATE = "Validate", OperationTraits(result=Reason.VALIDATED)
    EXPORT = "Export", OperationTraits(result=Reason.EXPORTED)
    CLEAN = "Clean", OperationTraits(result=Reason.CLEANED)

    def __new__(cls, word: str, traits: OperationTraits) -> Self:
        """Make a member whose value is its word alone."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.traits, member.module = traits, word.lower()
        member.one = f"{'an' if word[0] in 'AEIOU' else 'a'} {word}"
        return member


class IfExists(StrEnum):
    """What is done where a committed checkpoint stands."""

    FAIL = "Fail"
    REPLACE = "Replace"


class VerifyFields(Wire):
    """What a Verify checks: every byte, by its digests. It has no choice to make yet."""


class DeleteFields(Wire):
    """Which save a Delete removes."""

    save_id: SaveId | None = Field(
        default=None,
        description="Remove this save alone, as status.checkpoint.saveId of a Save names it; where another one stands, "
        "nothing is removed. Left out: whatever stands there, a checkpoint by stock DCP too.",
    )
    saved_by: ObjectUid | None = Field(
        default=None,
        description="Remove only what the Checkpoint of this metadata.uid has saved; where another one stands, "
        "nothing is removed.",
    )


class CopySource(Wire):
    """A committed checkpoint that is copied."""

    url: Url = Field(description="fsspec URL of a committed checkpoint, read with the storage options of this object.")


class CopyFields(Wire):
    """What a Copy copies, and what it does where a checkpoint stands already."""

    from_: CopySource = Field(alias="from", description="The checkpoint that is copied to storage.url.")
    if_exists: IfExists = Field(
        default=IfExists.FAIL,
        description="What a Copy does if another committed checkpoint stands at storage.url: Fail ends the Copy as a "
        "Conflict; Replace replaces the checkpoint atomically.",
    )
    verify: bool = Field(
        default=True, description="Compare every block with its digest on the way; false compares sizes alone."
    )
    bytes_per_second: int | None = Field(
        default=None, ge=1 << 20, le=1 << 50, description="Bytes that are read in a second at most. Default: no limit."
    )

    @property
    def overwrites(self) -> bool:
        """Whether a committed checkpoint is replaced."""
        return self.if_exists is IfExists.REPLACE


class ValidateFields(Wire):
    """What a Validate tries out."""

    read_only: bool = Field(
        default=False, description="Whether nothing is written: listing and reading are tried out alone."
    )


class ExportFormat(StrEnum):
    """The forms in which other programs read a model."""

    SAFETENSORS = "safetensors"


class ExportDtype(StrEnum):
    """The floating-point types that safetensors have, in torch's words."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT8_E4M3FN = "float8_e4m3fn"
    FLOAT8_E5M2 = "float8_e5m2"
    FLOAT8_E4M3FNUZ = "float8_e4m3fnuz"
    FLOAT8_E5M2FNUZ = "float8_e5m2fnuz"


class KeyRule(Wire):
    """New names for the entries that a glob matches whole."""

    glob: Glob = Field(description="Glob over names of entries; a * stands for any text, dots too.")
    name: Glob = Field(
        description="The name in the export; each * takes, in their order, the text of one * of the glob."
    )


class ExportSource(Wire):
    """A committed checkpoint that is exported."""

    url: Url = Field(description="fsspec URL of a committed checkpoint, read with the storage options of this object.")


class ExportFields(Wire):
    """What an Export reads, what it makes of it, and what it does where a model stands already."""

    from_: ExportSource = Field(alias="from", description="The checkpoint whose tensors are exported to storage.url.")
    format: ExportFormat = Field(
        default=ExportFormat.SAFETENSORS,
        description="safetensors writes a folder that transformers reads: shards, and model.safetensors.index.json.",
    )
    dtype: ExportDtype | None = Field(
        default=None,
        description="The type that floating-point values get; a value that it can't hold fails the Export. Default: "
        "that which they have.",
    )
    include: list[Glob] = Field(
        default_factory=list,
        max_length=64,
        description="Names of entries, with all below them, or globs, to export. Empty means all. Entries that are no "
        "tensors are left out.",
    )
    keys: list[KeyRule] = Field(
        default_factory=list,
        max_length=256,
        description="New names for the entries: the first glob that matches counts, and what none matches is left "
        "out. Default: model.* to *, or all names as they are where nothing is below model.",
    )
    shard_bytes: int = Field(
        default=5_000_000_000,
        ge=1 << 20,
        le=1 << 50,
        description="Bytes of values in one file at most, unless one tensor is larger.",
    )
    config_files: list[Url] = Field(
        default_factory=list,
        max_length=32,
        description="Small files that are copied beside the index, such as config.json: each a path in the pod, as of "
        "a ConfigMap that podTemplate mounts, or a URL that is read with the storage options of this object.",
    )
    if_exists: IfExists = Field(
        default=IfExists.FAIL,
        description="What an Export does if a model stands at storage.url: Fail ends the Export as a Conflict; Replace "
        "replaces the model atomically.",
    )

    @property
    def overwrites(self) -> bool:
        """Whether a model is replaced."""
        return self.if_exists is IfExists.REPLACE


class OperationMembers(Wire):
    """The union of operations: `operation` says which one it is, and its own fields stand in the member of its name."""

    operation: Operation = Field(
        description="Save writes a checkpoint, Load reads it into a model, Verify checks its bytes, Delete removes it, "
        "Copy copies another one to its URL, Validate tries out the store there, Export writes another checkpoint "
        "there as other programs read it, Clean removes what belongs to no checkpoint."
    )
    save: SaveFields | None = Field(
        default=None,
        description="What a Save does before it saves, and if a checkpoint stands there already. For a Save alone.",
    )
    load: LoadSelection | None = Field(
        default=None, description="Which part of the checkpoint a Load reads. For a Load alone."
    )
    verify: VerifyFields | None = Field(
        default=None, description="A Verify checks every byte; no field yet. For a Verify alone."
    )

    delete: DeleteFields | None = Field(default=None, description="Which save a Delete removes. For a Delete alone.")
    copy_: CopyFields | None = Field(
        default=None,
        alias="copy",
        description="What a Copy copies, and if a checkpoint stands there already. For a Copy alone.",
    )
    export: ExportFields | None = Field(
        default=None, description="What an Export reads, and what it makes of it. For an Export alone."
    )

    validate_: ValidateFields | None = Field(
        default=None, alias="validate", description="What a Validate tries out. For a Validate alone."
    )
    clean: CleanFields | None = Field(default=None, description="Which leftovers a Clean removes. For a Clean alone.")

    @property
    def members(self) -> dict[str, Wire | None]:
        """The member of each operation that has one, by its name in JSON."""
        return {name: getattr(self, field) for name, field in sorted(member_fields().items())}

    @property
    def lacking(self) -> str:
        """The member that the operation can't do without and lacks, by its name in JSON; empty where it lacks none."""
        name = self.operation.module
        member = OperationMembers.model_fields.get(member_fields().get(name, ""))
        if member is None or self.members[name] is not None:
            return ""
        (model,) = (each for each in get_args(member.annotation) if each is not NoneType)
        return name if any(field.is_required() for field in model.model_fields.values()) else ""

    @property
    def of_copy(self) -> CopyFields:
        """A Copy's own fields, which it must have."""
        assert self.copy_ is not None  # noqa: S101 - whoever accepted the spec, or decoded the Task, saw to it
        return self.copy_

    @property
    def of_export(self) -> ExportFields:
        """An Export's own fields, which it must have."""
        assert self.export is not None  # noqa: S101 - as of a Copy
        return self.export

    @property
    def of_clean(self) -> CleanFields:
        """A Clean's own fields; with their defaults where the member is left out."""
        return self.clean or CleanFields()

    @property
    def sweeps(self) -> bool:
        """Whether it works on all that is below its URL."""
        return self.of_clean.recursive

    @property
    def overwrites(self) -> bool:
        """Whether what stands at the URL is replaced."""
        return any(each is not None and each.overwrites for each in (self.save, self.copy_, self.export))

    @property
    def source_url(self) -> str:
        """Where it reads a checkpoint beside its own URL, to start from it, to copy or to export it; else empty."""
        if self.save and self.save.from_:
            return self.save.from_.place
        sources = (self.copy_ and self.copy_.from_, self.export and self.export.from_)
        return next((source.url for source in sources if source), "")

    @property
    def of_save(self) -> SaveFields:
        """A Save's own fields; with their defaults where the member is left out."""
        return self.save or SaveFields()

    @property
    def of_load(self) -> LoadSelection:
        """A Load's own fields; with their defaults where the member is left out."""
        return self.load or LoadSelection()

    @property
    def of_validate(self) -> ValidateFields:
        """A Validate's own fields; with their defaults where the member is left out."""
        return self.validate_ or ValidateFields()

    @property
    def of_delete(self) -> DeleteFields:
        """A Delete's own fields; with their defaults where the member is left out."""
        return self.delete or DeleteFields()


def member_fields() -> dict[str, str]:
    """Return the members of `OperationMembers` by their names in JSON, each with the name of its attribute."""
    named = {str(field.alias): name for name, field in OperationMembers.model_fields.items()}
    return {each.module: named[each.module] for each in Operation if each.module in named}
