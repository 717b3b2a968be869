"""The control plane's half of each operation, in a module of the operation's name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import import_module

from dcp_contract.operations import Operation, OperationMembers
from dcp_operator.api.checkpoint.cel import Rule
from dcp_operator.api.checkpoint.spec import CheckpointSpec
from dcp_operator.api.site import Site


def _no_problems(spec: CheckpointSpec, site: Site) -> Iterable[str]:
    del spec, site
    return ()


def _never(spec: OperationMembers) -> bool:
    del spec
    return False


def _nothing(spec: OperationMembers) -> Iterable[str]:
    del spec
    return ()


class UrlUse(StrEnum):
    """What an operation does at its URL, in the words of a message: `Checkpoint x is ... the same URL`."""

    READS = "reading from"
    WRITES = "saving to"
    REMOVES = "removing what stands at"
    CLEANS = "cleaning"

    def excludes(self, other: "UrlUse") -> bool:
        """Return whether two such operations take turns.

        A commit replaces a checkpoint in one step, so nobody who reads it has to wait for a Save. A removal takes the
        data away from whoever reads them. A clean-up takes nothing that is committed.
        """
        return UrlUse.REMOVES in {self, other} or UrlUse.READS not in {self, other}


@dataclass(frozen=True, kw_only=True)
class OperationRules:
    """What a module of an operation defines, as `RULES`."""

    problems: Callable[[CheckpointSpec, Site], Iterable[str]] = _no_problems
    """Yields what is wrong with the operation's own fields, in lines `field: what is wrong; write ...`."""
    repeated: Callable[[OperationMembers], Iterable[str]] = _nothing
    """Yields what would have each run of a series but the first fail, in lines `field below the spec: ...`."""
    repeated_cel: tuple[Rule, ...] = ()
    """The same for the API server, on the spec of a series' template."""
    cel: tuple[Rule, ...] = ()
    """What the API server refuses of them, and holds still."""
    ends_with_commit: bool = False
    """What node 0 reports as done ends the attempt, whatever its pods do then. Else every pod has to be over."""
    url_use: UrlUse = UrlUse.READS
    """Which other live objects of a namespace that work on the same URL it takes turns with."""
    tries_writing: Callable[[OperationMembers], bool] = _never
    """Whether it writes at its URL though it changes no checkpoint: a store that is ReadOnly takes none of that."""


@cache
def rules_of(operation: Operation) -> OperationRules:
    """Return what the operation's own module says of it."""
    rules: OperationRules = import_module(f"{__name__}.{operation.module}").RULES
    return rules
