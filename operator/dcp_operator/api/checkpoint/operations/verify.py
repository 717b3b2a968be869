"""A Verify: it has no fields of its own yet."""

from typing import Final

from dcp_operator.api.checkpoint.cel import kept
from dcp_operator.api.checkpoint.operations import OperationRules

RULES: Final = OperationRules(cel=(kept(("spec",), "verify"),))
