"""What the API server itself refuses of a store: CEL rules, in words that say what to write instead."""

from typing import Final

from dcp_operator.api.checkpoint.cel import Rule, prefix_rules
from dcp_operator.api.checkpoint.cel_rules import option_rules
from dcp_operator.api.store.parsing import WITHOUT_VOLUME

_SPEC: Final = ("spec",)

RULES: Final = (
    Rule(
        (),
        "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
        "metadata.name begins the names of its validations; write at most 63 of a-z, 0-9 and '-'",
    ),
    *prefix_rules(_SPEC),
    Rule(
        _SPEC,
        "self.url.contains('::') || !self.url.contains('://') || self.url.matches('://[^/]')"
        " || self.url.startsWith('file://')",
        "names no bucket; write protocol://bucket, or protocol://bucket/prefix",
        "url",
    ),
    Rule(_SPEC, "!self.url.matches('^(file|memory)://')", WITHOUT_VOLUME, "url"),
    *option_rules(_SPEC),
    Rule(
        _SPEC,
        "!self.validationInterval.matches('^([0-9]{1,3}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?$') || "
        "(duration(self.validationInterval) >= duration('1m') && "
        "duration(self.validationInterval) <= duration('168h'))",
        "is no time between two validations; write one such as 30m, from 1m to 168h",
        "validationInterval",
    ),
)
