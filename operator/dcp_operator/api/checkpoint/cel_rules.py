"""What the API server itself refuses: CEL rules with messages that say what to write instead.

They say again what `rules` and `storage_url` say, for those who apply with kubectl and read the answer at once; `rules`
remains the authority. Rules that compare with the old object keep a spec still: only MUTABLE_FIELDS may change. The
free-form fields args and podTemplate have no schema that CEL could compare; `admission` and `decide` hold those.
"""

from collections.abc import Iterator
from typing import Final

from dcp_contract.operations import Operation, member_fields
from dcp_operator.api.checkpoint.cel import Rule, kept, still, url_rules
from dcp_operator.api.checkpoint.in_store import MISSING, OF_STORE, STANDS_IN_STORE
from dcp_operator.api.checkpoint.operations import rules_of
from dcp_operator.api.checkpoint.rules import READERS
from dcp_operator.api.checkpoint.target_rules import RULES as TARGET_RULES
from dcp_operator.api.storage_url import ADDRESS_OPTIONS, option_protocols
from dcp_operator.api.store_path import PATH_PROBLEM, PATTERN

_SPEC: Final = ("spec",)
_STORAGE: Final = ("spec", "storage")
_WORKLOAD: Final = ("spec", "workload")
_WORKERS: Final = ("spec", "workers")
_PARALLELISM: Final = ("spec", "parallelism")
_WORLD: Final = "self.workers.numNodes * self.workers.numProcPerNode"


def _option(at: tuple[str, ...], name: str, protocols: tuple[str, ...], *, latest: bool) -> Rule:
    """Return the rule that an option is of the URL's protocol. That of the latest of a series shows later."""
    unknown = "has(self.latestOf) || " if latest else ""
    return Rule(
        at,
        f"{_unset(name)} || {unknown}(has(self.url) && self.url.matches('^({'|'.join(protocols)})://'))",
        f"is an option of {', '.join(protocols)}; drop it",
        f"options.{name}",
    )


def _address(at: tuple[str, ...], name: str) -> tuple[Rule, ...]:
    """Return the rules of an option that is an address."""
    value = f"self.options.{name}"
    # Not by (?i): it takes letters of other scripts for ASCII ones.
    host = r"^[hH][tT][tT][pP][sS]?://([^/?#@]*@)?([A-Za-z0-9._-]+|\\[[^/?#]*\\])(:[0-9]*)?([/?#]|$)"
    return (
        Rule(
            at,
            f"{_unset(name)} || (isURL({value}) && {value}.matches('{host}'))",
            "is not an address; write http://host:port or https://host:port, in the letters a-z, digits, - and dots",
            f"options.{name}",
        ),
        Rule(
            at,
            f"{_unset(name)} || !{value}.matches('://[^/?#]*@')",
            "holds credentials; write the address without them and move them to credentialsSecretRef",
            f"options.{name}",
        ),
    )


def _unset(name: str) -> str:
    return f"!has(self.options) || !has(self.options.{name})"


def _of_traits(operation: Operation) -> Iterator[Rule]:
    """Yield the rules that follow from what the registry says of an operation."""
    traits, another = operation.traits, f"self.operation != '{operation}'"
    if traits.takes_target:
        either = f"{operation.one} has a workload or a target; write one of them"
        yield Rule(_SPEC, f"{another} || has(self.workload) != has(self.target)", either, "workload")
    elif traits.needs_workload:
        missing = f"{operation.one} needs a workload; write workload: {{entrypoint: my_pkg.train:Workload}}"
        yield Rule(_SPEC, f"{another} || has(self.workload)", missing, "workload")
    else:
        yield Rule(
            _SPEC,
            f"{another} || !has(self.workload)",
            f"{operation.one} builds no model; drop workload, or write operation: Load",
            "workload",
        )
    if not traits.needs_ranks:
        yield Rule(
            _SPEC,
            f"{another} || {_WORLD} == 1",
            f"{operation.one} runs as one process; write numNodes: 1 and numProcPerNode: 1",
            "workers",
        )
    if operation.module in member_fields():
        member = operation.module
        yield Rule(
            _SPEC,
            f"!has(self.{member}) || self.operation == '{operation}'",
            f"is for {operation.one}; drop it, or write operation: {operation}",
            member,
        )


def storage_rules(*, latest: bool = False) -> tuple[Rule, ...]:
    """Return the rules of a storage, in which `latestOf` may stand for the URL or does not exist."""
    return (
        *url_rules(_STORAGE, optional=True),
        *option_rules(_STORAGE, latest=latest),
        *_in_store(),
    )


def option_rules(at: tuple[str, ...], *, latest: bool = False) -> tuple[Rule, ...]:
    """Return the rules of the options in the section at that place, which has the URL, too."""
    return (
        *(_option(at, name, protocols, latest=latest) for name, protocols in option_protocols().items()),
        *(rule for name in ADDRESS_OPTIONS for rule in _address(at, name)),
    )


def _in_store() -> Iterator[Rule]:
    """Yield the rules of a storage that names a store."""
    named = "has(self.store) || has(self.path)"
    for field in OF_STORE:
        yield Rule(_STORAGE, f"!has(self.{field}) || !({named})", STANDS_IN_STORE, field)
    yield Rule(_STORAGE, "!has(self.store) || has(self.path)", MISSING, "path")
    yield Rule(_STORAGE, f"!has(self.path) || self.path.matches('{PATTERN}')", PATH_PROBLEM, "path")


RULES: Final = (
    Rule(
        (),
        "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
        "metadata.name is a label too; write at most 63 of a-z, 0-9 and '-'",
    ),
    *storage_rules(latest=True),
    Rule(_STORAGE, "!has(self.url) || !has(self.latestOf)", "has url and latestOf; write one of them"),
    Rule(_STORAGE, "!has(self.latestOf) || !(has(self.store) || has(self.path))", STANDS_IN_STORE, "latestOf"),
    Rule(
        _SPEC,
        f"!has(self.storage.latestOf) || self.operation in {[each.value for each in Operation if each.traits.reads]}",
        f"is for {READERS}; write url",
        "storage.latestOf",
    ),
    *(rule for operation in Operation for rule in _of_traits(operation)),
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
    still(_SPEC, "operation"),
    still(_STORAGE, "url", optional=True),
    still(_STORAGE, "latestOf", optional=True),
    still(_STORAGE, "options", optional=True),
    still(_STORAGE, "credentialsSecretRef", optional=True),
    still(_STORAGE, "caSecretRef", optional=True),
    still(_STORAGE, "serviceAccountName", optional=True),
    still(_STORAGE, "store", optional=True),
    still(_STORAGE, "path", optional=True),
    kept(_SPEC, "workload"),
    still(_WORKLOAD, "entrypoint"),
    still(_WORKLOAD, "allow", optional=True),
    kept(_WORKLOAD, "args"),
    still(_SPEC, "parallelism"),
    still(_WORKERS, "numNodes"),
    still(_WORKERS, "numProcPerNode"),
    still(_WORKERS, "device"),
    still(_WORKERS, "image", optional=True),
    still(_WORKERS, "gpuResource"),
    kept(_WORKERS, "podTemplate"),
    *TARGET_RULES,
    *(rule for operation in Operation for rule in rules_of(operation).cel),
)
