"""A Verify: it has no fields of its own."""

from collections.abc import Iterator
from typing import Final

from dcp_contract.sections import LoadSelection
from dcp_operator.api.checkpoint.operations import OperationRules
from dcp_operator.api.checkpoint.spec import CheckpointSpec
from dcp_operator.api.site import Site


def _problems(spec: CheckpointSpec, site: Site) -> Iterator[str]:
    del site
    if spec.load != LoadSelection():
        yield "spec.load: this Verify loads nothing; drop load"


RULES: Final = OperationRules(problems=_problems)
