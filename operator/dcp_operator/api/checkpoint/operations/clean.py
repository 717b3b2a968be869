"""A Clean: how young what it removes may be, and whose turn it waits for."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from dcp_operator.api.checkpoint.cel import Rule, kept, still
from dcp_operator.api.checkpoint.operations import OperationRules, UrlUse
from dcp_operator.api.checkpoint.spec import CheckpointSpec, DeletionPolicy
from dcp_operator.api.site import Site

_SPEC: Final = ("spec",)
_CLEAN: Final = (*_SPEC, "clean")
_YOUNGEST: Final = timedelta(hours=1)
_TOO_YOUNG: Final = "is too short: a save that is under way may write nothing for so long; write 1h or more, such as 1d"
_RETAIN: Final = "a Clean saves nothing that could go with it; write Retain"
_HOUR: Final = "[1-9][0-9]*[dh]|([6-9][0-9]|[1-9][0-9]{2,5})m|(3[6-9][0-9]{2}|[4-9][0-9]{3}|[1-9][0-9]{4,5})s"
"""Of a text that says an hour or more in one of its units."""


def _problems(spec: CheckpointSpec, site: Site) -> Iterator[str]:
    del site
    if spec.of_clean.min_age < _YOUNGEST:
        yield f"spec.clean.minAge: {_TOO_YOUNG}"
    if spec.deletion_policy is DeletionPolicy.DELETE:
        yield f"spec.deletionPolicy: {_RETAIN}"


RULES: Final = OperationRules(
    problems=_problems,
    cel=(
        kept(_SPEC, "clean"),
        Rule(_SPEC, "self.operation != 'Clean' || self.deletionPolicy == 'Retain'", _RETAIN, "deletionPolicy"),
        Rule(_CLEAN, f"self.minAge.matches('{_HOUR}')", _TOO_YOUNG, "minAge"),
        still(_CLEAN, "minAge"),
        still(_CLEAN, "dryRun"),
        still(_CLEAN, "recursive"),
    ),
    url_use=UrlUse.CLEANS,
)
