"""What the API server itself refuses: CEL rules with messages that say what to write instead.

They say again what `rules` and `storage_url` say, for those who apply with kubectl and read the answer at once; `rules`
remains the authority. Rules that compare with the old object keep a spec still: only MUTABLE_FIELDS may change. The
free-form fields args and podTemplate have no schema that CEL could compare; `admission` and `decide` hold those.
"""

from dataclasses import dataclass
from typing import Final

from dcp_operator.api.storage_url import ADDRESS_OPTIONS, option_protocols


@dataclass(frozen=True)
class Rule:
    """One CEL rule on the schema at `at`, a path below the object."""

    at: tuple[str, ...]
    cel: str
    message: str
    field: str = ""
    """The field below `at` that a refusal names."""
    reason: str = ""
    """The API server's own word for what is wrong, where it is not the value."""

    def to_dict(self) -> dict[str, str]:
        """Return the entry of x-kubernetes-validations."""
        field = {"fieldPath": f".{self.field}"} if self.field else {}
        reason = {"reason": self.reason} if self.reason else {}
        return {"rule": self.cel, "message": self.message, **field, **reason}


ANOTHER: Final = "apply another Checkpoint under another name, or delete this one first: its data stays"
"""What to do where a field is immutable."""

_FORBIDDEN: Final = "FieldValueForbidden"
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
    return Rule(at, same, f"is immutable; {ANOTHER}", field, _FORBIDDEN)


def _kept(at: tuple[str, ...], field: str) -> Rule:
    """Return the rule that an optional section stays there, or stays away; its own fields have their own rules."""
    return Rule(
        at,
        f"has(self.{field}) == has(oldSelf.{field})",
        f"can't be added or removed; {ANOTHER}",
        field,
        _FORBIDDEN,
    )


def _same_list(field: str) -> str:
    """Return CEL for the same list: one that is empty says the same as none."""
    new, old = f"self.load.{field}", f"oldSelf.load.{field}"
    # Not by orValue: the API server could not tell what the comparison may cost.
    empty = f"(!has({old}) || {old}.size() == 0)"
    return f"(!has({new}) || {new}.size() == 0 ? {empty} : has({old}) && {new} == {old})"


def _url(at: tuple[str, ...]) -> tuple[Rule, ...]:
    """Return the rules of a checkpoint's URL; which protocols are served is the operator's to say."""
    cloud = "self.url.matches('^(file|memory)://')"
    azure = "self.url.matches('^(az|abfs)://')"
    return (
        Rule(
            at,
            "!self.url.contains('::')",
            "chained URLs are not accepted; write the address of the store itself, such as s3://bucket/path",
            "url",
        ),
        Rule(
            at,
            "self.url.contains('::') || self.url.matches('^[a-z][a-z0-9]*://.')",
            "write protocol://bucket/path, such as s3://bucket/run/step-1000, or file:///path for a mounted volume",
            "url",
        ),
        Rule(
            at,
            r"!self.url.matches('[\\s?#\\\\*]')",
            r"holds a space or one of ? # \ *; write a plain path of letters, digits, and . _ - / =",
            "url",
        ),
        Rule(
            at,
            "!self.url.matches('/[.][.](/|$)')",
            "is not a plain URL; write protocol://bucket/path without '..'",
            "url",
        ),
        Rule(
            at,
            f"!self.url.matches('://[^/]*@') || ({azure} && !self.url.matches('://[^/]*:[^/]*@'))",
            "holds credentials; write the URL alone and move them to credentialsSecretRef",
            "url",
        ),
        Rule(
            at,
            "!self.url.startsWith('file://') || self.url.matches('^file:///.')",
            "names no absolute path; write file:///path",
            "url",
        ),
        Rule(
            at,
            f"{cloud} || self.url.contains('::') || self.url.matches('://[^/]+/+[^/]') || !self.url.contains('://')",
            "names no path in a bucket; write protocol://bucket/path, with a path of its own per checkpoint",
            "url",
        ),
    )


def _option(name: str, protocols: tuple[str, ...]) -> Rule:
    """Return the rule that an option is of the URL's protocol."""
    return Rule(
        _STORAGE,
        f"{_unset(name)} || self.url.matches('^({'|'.join(protocols)})://')",
        f"is an option of {', '.join(protocols)}; drop it",
        f"options.{name}",
    )


def _address(name: str) -> tuple[Rule, ...]:
    """Return the rules of an option that is an address."""
    value = f"self.options.{name}"
    # Not by (?i): it takes letters of other scripts for ASCII ones.
    host = r"^[hH][tT][tT][pP][sS]?://([^/?#@]*@)?([A-Za-z0-9._-]+|\\[[^/?#]*\\])(:[0-9]*)?([/?#]|$)"
    return (
        Rule(
            _STORAGE,
            f"{_unset(name)} || (isURL({value}) && {value}.matches('{host}'))",
            "is not an address; write http://host:port or https://host:port, in the letters a-z, digits, - and dots",
            f"options.{name}",
        ),
        Rule(
            _STORAGE,
            f"{_unset(name)} || !{value}.matches('://[^/?#]*@')",
            "holds credentials; write the address without them and move them to credentialsSecretRef",
            f"options.{name}",
        ),
    )


def _unset(name: str) -> str:
    return f"!has(self.options) || !has(self.options.{name})"


RULES: Final = (
    Rule(
        (),
        "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
        "metadata.name is a label too; write at most 63 of a-z, 0-9 and '-'",
    ),
    *_url(_STORAGE),
    *_url((*_WORKLOAD, "from")),
    *(_option(name, protocols) for name, protocols in option_protocols().items()),
    *(rule for name in ADDRESS_OPTIONS for rule in _address(name)),
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
    _still(_STORAGE, "caSecretRef", optional=True),
    _kept(_SPEC, "workload"),
    _still(_WORKLOAD, "entrypoint"),
    _still(_WORKLOAD, "steps"),
    _still(_WORKLOAD, "from", optional=True),
    _still(_WORKLOAD, "allow", optional=True),
    _kept(_WORKLOAD, "args"),
    _still(_SPEC, "parallelism"),
    _still(_WORKERS, "numNodes"),
    _still(_WORKERS, "numProcPerNode"),
    _still(_WORKERS, "device"),
    _still(_WORKERS, "image", optional=True),
    _still(_WORKERS, "gpuResource"),
    _kept(_WORKERS, "podTemplate"),
    Rule(
        _SPEC,
        f"self.load.strict == oldSelf.load.strict && {_same_list('include')} && {_same_list('exclude')}",
        f"is immutable; {ANOTHER}",
        "load",
        _FORBIDDEN,
    ),
)
