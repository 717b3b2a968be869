"""A Load: which part of the checkpoint it reads."""

from typing import Final

from dcp_operator.api.checkpoint.cel import kept, still_selection
from dcp_operator.api.checkpoint.operations import OperationRules

_SPEC: Final = ("spec",)

RULES: Final = OperationRules(cel=(kept(_SPEC, "load"), *still_selection((*_SPEC, "load"))))
