"""What a Checkpoint with a target may say: the training has its own ranks, credentials and options.

The same stands twice: as lines for the operator and `dcp validate`, and as CEL for the API server.
"""

from collections.abc import Iterator
from typing import Final

from dcp_contract.operations import Operation
from dcp_contract.sections import Parallelism
from dcp_operator.api.checkpoint.cel import Rule, still
from dcp_operator.api.checkpoint.spec import CheckpointSpec, DeletionPolicy, WorkersSpec
from dcp_operator.api.checkpoint.target import Target
from dcp_operator.api.site import Site

_SPEC: Final = ("spec",)
_TARGET: Final = ("spec", "target")
_TAKERS: Final = tuple(each for each in Operation if each.traits.takes_target)
_OWN: Final = "the training of spec.target has its own; drop"
"""Why a field is refused beside a target."""
_NO_ADOPTION: Final = "a training saves what it has now, and Adopt is for a Save with a workload; write Fail or Replace"


def target_problems(spec: CheckpointSpec, target: Target, site: Site) -> Iterator[str]:
    """Yield what is wrong with a target, and each field that says what the training says for itself."""
    if spec.operation not in _TAKERS:
        yield f"spec.target: is for a {' or '.join(_TAKERS)}, and this is {spec.operation.one}; drop it"
    if not site.has_trainings:
        yield "spec.target: names a training in a cluster; apply the Checkpoint there with kubectl"
    yield from target.problems()
    if spec.of_save.adopts:
        yield f"spec.save.ifExists: {_NO_ADOPTION}"
    for field, is_set in _refused(spec).items():
        if is_set:
            yield f"spec.{field}: {_OWN} {field.rpartition('.')[2]}"


def _refused(spec: CheckpointSpec) -> dict[str, bool]:
    # What is written and empty is refused as well: the API server can't see that it is.
    storage, save, workers = spec.storage, spec.of_save, spec.workers
    members = {each.module: spec.members.get(each.module) is not None for each in Operation}
    return {
        "workload": spec.workload is not None,
        "storage.credentialsSecretRef": storage.credentials_secret_ref is not None,
        "storage.caSecretRef": storage.ca_secret_ref is not None,
        "storage.serviceAccountName": storage.service_account_name is not None,
        "storage.store": storage.store is not None,
        "storage.path": bool(storage.path),
        "storage.options": "options" in storage.model_fields_set,
        "workers": workers != WorkersSpec() or "pod_template" in workers.model_fields_set,
        "parallelism": spec.parallelism != Parallelism(),
        "deletionPolicy": spec.deletion_policy is DeletionPolicy.DELETE,
        "save.steps": save.steps > 0,
        "save.from": save.from_ is not None,
        **{member: there for member, there in members.items() if member != spec.operation.module},
    }


def _without(at: tuple[str, ...], cel: str, field: str) -> Rule:
    return Rule(at, f"!has(self.target) || {cel}", f"{_OWN} {field.rpartition('.')[2]}", field)


IN_STORE: Final = "has(self.storage.store) || has(self.storage.path)"
_ONE_OF: Final = "has(self.selector) ? !has(self.kind) && !has(self.name) : has(self.kind) && has(self.name)"
_PLAIN_WORKERS: Final = (
    "self.workers.numNodes == 1 && self.workers.numProcPerNode == 1 && self.workers.device == 'auto' && "
    "!has(self.workers.image) && !has(self.workers.podTemplate)"
)
_PLAIN_PARALLELISM: Final = "self.parallelism.strategy == 'fsdp2' && self.parallelism.replicate == 1"
RULES: Final = (
    Rule(
        _SPEC,
        f"!has(self.target) || self.operation in {[each.value for each in _TAKERS]}",
        f"is for a {' or '.join(_TAKERS)}; drop it",
        "target",
    ),
    Rule(_TARGET, _ONE_OF, "names no training, or names it twice; write kind and name, or a selector"),
    Rule(
        _SPEC,
        f"has(self.target) || has(self.storage.url) || has(self.storage.latestOf) || {IN_STORE}",
        "is missing; write one such as s3://bucket/run/step-1000",
        "storage.url",
    ),
    _without(_SPEC, "!has(self.storage.credentialsSecretRef)", "storage.credentialsSecretRef"),
    _without(_SPEC, "!has(self.storage.caSecretRef)", "storage.caSecretRef"),
    _without(_SPEC, "!has(self.storage.options)", "storage.options"),
    _without(_SPEC, "!has(self.storage.serviceAccountName)", "storage.serviceAccountName"),
    _without(_SPEC, "!has(self.storage.store)", "storage.store"),
    _without(_SPEC, "!has(self.storage.path)", "storage.path"),
    _without(_SPEC, _PLAIN_WORKERS, "workers"),
    _without(_SPEC, _PLAIN_PARALLELISM, "parallelism"),
    _without(_SPEC, "self.deletionPolicy == 'Retain'", "deletionPolicy"),
    _without(_SPEC, "!has(self.save) || self.save.steps == 0", "save.steps"),
    _without(_SPEC, "!has(self.save) || !has(self.save.from)", "save.from"),
    Rule(
        _SPEC,
        "!has(self.target) || !has(self.save) || self.save.ifExists != 'Adopt'",
        _NO_ADOPTION,
        "save.ifExists",
    ),
    still(_SPEC, "target", optional=True),
)
"""For the CRD."""
