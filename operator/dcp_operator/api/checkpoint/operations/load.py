"""A Load: which part of the checkpoint it reads."""

from collections.abc import Iterator
from typing import Final

from dcp_operator.api.checkpoint.cel import ANOTHER, FORBIDDEN, Rule, same_list
from dcp_operator.api.checkpoint.operations import OperationRules
from dcp_operator.api.checkpoint.spec import CheckpointSpec
from dcp_operator.api.site import Site

_SPEC: Final = ("spec",)


def _problems(spec: CheckpointSpec, site: Site) -> Iterator[str]:
    del site
    workload = spec.workload
    if workload is not None and workload.steps:
        yield "spec.workload.steps: steps run before a Save; drop steps from this Load"
    elif workload is not None and workload.from_ is not None:
        yield "spec.workload.from: is for a Save; write the URL to load as spec.storage.url"


RULES: Final = OperationRules(
    problems=_problems,
    cel=(
        Rule(
            _SPEC,
            "self.operation != 'Load' || !has(self.workload) || (self.workload.steps == 0 && !has(self.workload.from))",
            "steps and from are for a Save; drop them, and write the URL to load as storage.url",
            "workload",
        ),
        Rule(
            _SPEC,
            f"self.load.strict == oldSelf.load.strict && {same_list('load.include')} && {same_list('load.exclude')}",
            f"is immutable; {ANOTHER}",
            "load",
            FORBIDDEN,
        ),
    ),
)
