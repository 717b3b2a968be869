"""Reasons, storage options and metrics, from the tables that the code uses."""

from collections import defaultdict
from math import inf
from typing import Final

from prometheus_client.metrics import MetricWrapperBase

from dcp_contract.storage_options import CREDENTIAL_KEYS, SPEC_OPTIONS, StorageOption
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.generate.reference.markdown import code, codes, table
from dcp_operator.kube.client import metrics as counted

_TYPES: Final = {str: "text", int: "whole number", float: "number", bool: "true or false"}
_SUFFIXES: Final = {"counter": "_total", "info": "_info"}
_CONDITIONS: Final = (
    ("Ready", "the Checkpoint succeeded; in every state its message says what goes on, or what went wrong"),
    ("Reconciling", "work is under way or waits"),
    ("Stalled", "the Checkpoint ended as a conflict or a failure"),
    ("Complete", "the Checkpoint succeeded: `kubectl wait --for=condition=Complete`"),
    ("Failed", "the Checkpoint ended as a conflict or a failure: `kubectl wait --for=condition=Failed`"),
    ("Suspended", "`spec.suspend` is true"),
    (
        "SpecChanged",
        "the spec was changed since the run began, and the status is about the spec before; left out otherwise",
    ),
)


def reasons() -> list[str]:
    """Return the blocks of the page about reasons and conditions."""
    rows = [
        (code(reason.value), meaning.phase.value, "yes" if meaning.retriable else "no", meaning.doc, meaning.advice)
        for reason, meaning in REASONS.items()
    ]
    return [
        (
            "`status.reason` is one of these words. They are stable: scripts may compare them. A reason that is "
            "retried starts another attempt, up to `spec.retries` times."
        ),
        table(("reason", "phase", "retried", "meaning", "what to do"), rows),
        "## Conditions",
        "`status.conditions` has the types that `kubectl wait`, kstatus and GitOps tools read.",
        table(("type", "true when"), [(code(kind), text) for kind, text in _CONDITIONS]),
    ]


def options() -> list[str]:
    """Return the blocks of the page about storage options and the keys of a credentials Secret."""
    found: dict[tuple[str, StorageOption], list[str]] = defaultdict(list)
    for protocol, known in SPEC_OPTIONS.items():
        for name, option in known.items():
            found[name, option].append(protocol)
    rows = [
        (code(name), codes(option.choices) or _TYPES[option.kind], codes(protocols), option.doc)
        for (name, option), protocols in sorted(found.items())
    ]
    keys = [(codes([protocol]), codes(names) or "none") for protocol, names in CREDENTIAL_KEYS.items()]
    return [
        (
            "`spec.storage.options` of a Checkpoint takes these names; `storage_options` of `dcp_engine` takes them in "
            "Python's spelling (`endpoint_url`). None of them holds a secret."
        ),
        table(("option", "value", "URLs", "meaning"), rows),
        "## Credentials",
        (
            "`spec.storage.credentialsSecretRef` names a Secret with these keys. Each becomes an environment "
            "variable of the ranks. A training script sets the environment variables itself. The key `ca.crt` of "
            "the Secret holds the authorities to trust, in PEM."
        ),
        table(("URLs", "keys"), keys),
    ]


def metrics() -> list[str]:
    """Return the blocks of the page about metrics."""
    found = [each for each in vars(counted).values() if isinstance(each, MetricWrapperBase)]
    rows = [_metric(each) for each in found]
    family = next(iter(counted.Phases().collect()))
    rows.append((code(family.name), family.type, codes(("namespace", "phase")), family.documentation))
    return [
        (
            "The operator serves these on `/metrics` of its port (8080), beside the `process_` and `python_` "
            "metrics of any Python program."
        ),
        table(("metric", "type", "labels", "meaning"), sorted(rows)),
        "## Alerts",
        (
            "- `sum(dcp_leading) != 1`: no replica works, or two do.\n"
            "- `dcp_watch_stale_objects > 0` for ten minutes: a watch is behind the API server.\n"
            '- `dcp_checkpoints{phase="Pending"} > 0` for an hour: a Checkpoint waits for something that does not come.'
        ),
    ]


def _metric(metric: MetricWrapperBase) -> tuple[str, str, str, str]:
    (family,) = metric.describe()
    labels = metric._labelnames  # noqa: SLF001 - the library has no public name for it
    buckets = [f"{each:g}" for each in getattr(metric, "_upper_bounds", ()) if each != inf]
    text = f"{family.documentation} Buckets: {', '.join(buckets)}." if buckets else family.documentation
    return code(family.name + _SUFFIXES.get(family.type, "")), family.type, codes(labels), text
