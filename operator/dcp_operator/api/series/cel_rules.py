"""What the API server itself refuses of a series: CEL rules, in words that say what to write instead.

What a Checkpoint may not be, its template may not be: the same rules, below the template. The rules that hold a
Checkpoint still are left out, since a template may change.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from dcp_contract.operations import Operation
from dcp_operator.api.checkpoint.cel import Rule
from dcp_operator.api.checkpoint.cel_rules import RULES as OF_CHECKPOINT
from dcp_operator.api.checkpoint.cel_rules import storage_rules
from dcp_operator.api.checkpoint.operations import rules_of
from dcp_operator.api.checkpoint.rules import READERS
from dcp_operator.api.naming import GROUP, SERIES_NAME_LIMIT

_SPEC: Final = ("spec",)
_TEMPLATE: Final = ("spec", "template")
_METADATA: Final = (*_TEMPLATE, "metadata")
_SAVES: Final = f"self.template.spec.operation in {[each.value for each in Operation if each.traits.writes]}"

NO_ADOPTION: Final = "no run of a series meets what another one has saved: each has a URL of its own; write Fail"
_ADOPTS: Final = "has(self.template.spec.target) && has(self.storage)"
_READ: Final = "self.template.spec.storage"


def _below_template() -> Iterator[Rule]:
    """Yield the rules of a Checkpoint's spec, of its template.

    What the spec says of its storage is said above: of a template that may stand elsewhere, or nowhere.
    """
    repeated = (rule for operation in Operation for rule in rules_of(operation).repeated_cel)
    for rule in (*OF_CHECKPOINT, *repeated):
        if rule.at and "oldSelf" not in rule.cel and "self.storage" not in rule.cel:
            yield replace(rule, at=(*_TEMPLATE, *rule.at))


def _ours(field: str) -> Rule:
    return Rule(
        _METADATA,
        f"!has(self.{field}) || self.{field}.all(name, !name.startsWith('{GROUP}/'))",
        f"{GROUP}/ is the operator's own; drop it",
        field,
    )


RULES: Final = (
    Rule(
        (),
        f"self.metadata.name.size() <= {SERIES_NAME_LIMIT} && !self.metadata.name.contains('.')",
        f"metadata.name begins its runs' names; write at most {SERIES_NAME_LIMIT} of a-z, 0-9 and '-'",
    ),
    Rule(
        _SPEC,
        f"has(self.schedule) ? !has(self.every) : has(self.every) || ({_ADOPTS})",
        "has to say when; write one of schedule and every",
    ),
    Rule(
        _SPEC,
        "!has(self.immediate) || !self.immediate || has(self.schedule) || has(self.every)",
        "is of a schedule; drop it, or write every",
        "immediate",
    ),
    Rule(
        _SPEC,
        "!has(self.timeZone) || has(self.schedule)",
        "is of a schedule; drop it, or write schedule in place of every",
        "timeZone",
    ),
    Rule(
        _SPEC,
        "!has(self.every) || self.every.matches('[1-9]')",
        "is no time between two runs; write one such as 30m or 1h30m, at least 1s",
        "every",
    ),
    Rule(
        _SPEC,
        r"!has(self.schedule) || self.schedule.matches('^ *[^ ]+( +[^ ]+){4} *$')",
        "has not five fields; write minute, hour, day of the month, month and day of the week, such as 0 2 * * *",
        "schedule",
    ),
    Rule(
        _SPEC,
        f"!({_SAVES}) || has(self.template.spec.target) || has(self.storage)",
        "is missing; write storage: {url: s3://bucket/run}, below which each run saves",
        "storage",
    ),
    Rule(
        _SPEC,
        "!has(self.template.spec.target) || !has(self.retention) || has(self.storage)",
        "is missing; write where the training saves, and how the retention gets there",
        "storage",
    ),
    Rule(_SPEC, f"!has(self.retention) || {_SAVES}", "is of a series that saves; drop it", "retention"),
    Rule(
        _SPEC,
        "!has(self.onDisruption) || has(self.template.spec.target)",
        "is for a series with a target: a training that runs; drop it",
        "onDisruption",
    ),
    Rule(
        (*_SPEC, "onDisruption"),
        "!self.hold.matches('^([0-9]+h)?([0-9]+m)?([0-9]+s)?$') || "
        "(duration(self.hold) > duration('0s') && duration(self.hold) <= duration('24h'))",
        "is no time that an eviction can wait; write one such as 10m, at most 24h",
        "hold",
    ),
    Rule(
        _SPEC,
        "!has(self.retention) || !has(self.retention.within) || self.retention.within.matches('[1-9]')",
        "is no time at all; write such as 12h, or leave it out",
        "retention.within",
    ),
    Rule(
        _SPEC,
        f"!has({_READ}) || !has({_READ}.latestOf) || self.template.spec.operation in "
        f"{[each.value for each in Operation if each.traits.reads]}",
        f"is for {READERS}; write url",
        "template.spec.storage.latestOf",
    ),
    Rule(
        _SPEC,
        f"!({_SAVES}) || !has(self.template.spec.storage)",
        "a Save of a series goes below spec.storage; move it there",
        "template.spec.storage",
    ),
    Rule(
        _SPEC,
        f"{_SAVES} || !has(self.storage)",
        "is where a series saves; a Load or a Verify has it in template.spec.storage",
        "storage",
    ),
    Rule(
        _SPEC,
        f"{_SAVES} || (has({_READ}) && (has({_READ}.url) || has({_READ}.latestOf) || has({_READ}.path)))",
        "is missing; write what is read",
        "template.spec.storage",
    ),
    Rule(
        (*_SPEC, "storage"),
        "has(self.url) || has(self.store) || has(self.path)",
        "is missing; write one such as s3://bucket/run, or store: {name} and path",
        "url",
    ),
    Rule(
        _SPEC,
        "!has(self.template.spec.save) || self.template.spec.save.ifExists != 'Adopt'",
        NO_ADOPTION,
        "template.spec.save.ifExists",
    ),
    _ours("labels"),
    _ours("annotations"),
    *storage_rules(),
    *_below_template(),
)
