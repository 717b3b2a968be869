"""A Delete: which save it removes, and that it has its URL to itself."""

from typing import Final

from dcp_operator.api.checkpoint.cel import kept, still
from dcp_operator.api.checkpoint.operations import OperationRules, UrlUse

_SPEC: Final = ("spec",)

RULES: Final = OperationRules(
    cel=(kept(_SPEC, "delete"), *(still((*_SPEC, "delete"), each, optional=True) for each in ("saveId", "savedBy"))),
    url_use=UrlUse.REMOVES,
)
