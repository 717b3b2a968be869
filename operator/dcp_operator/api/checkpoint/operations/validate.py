"""A Validate: what it tries out. It changes no checkpoint, so it is a reader of its URL to the others."""

from typing import Final

from dcp_operator.api.checkpoint.cel import kept, still
from dcp_operator.api.checkpoint.operations import OperationRules

_SPEC: Final = ("spec",)

RULES: Final = OperationRules(
    cel=(kept(_SPEC, "validate"), still((*_SPEC, "validate"), "readOnly")),
    tries_writing=lambda spec: not spec.of_validate.read_only,
)
