"""The admission policies, generated from the rules of podTemplates: what is refused is refused before it is stored.

They hold what the CRD's own rules can't say: args, options and podTemplate have no schema that CEL could compare, and a
rule of the CRD sees no more than the object. An object that is stored already is not judged again, so that a stricter
policy keeps nobody from suspending or relabelling what runs.
"""

import json
from pathlib import Path
from typing import Any, Final

import yaml

from dcp_contract.operations import Operation
from dcp_operator.api.bounds import FREE_FORM, TOO_DEEP, cel
from dcp_operator.api.checkpoint.cel import ANOTHER
from dcp_operator.api.checkpoint.operations import UrlUse, rules_of
from dcp_operator.api.checkpoint.spec import CheckpointSpec, DeletionPolicy
from dcp_operator.api.naming import DATA_FINALIZER, GROUP, PLURAL, SERIES_PLURAL, STORE_KIND, VERSION, WORKER_CONTAINER
from dcp_operator.api.pod.cel import VARIABLES
from dcp_operator.api.pod.rules import POD_RULES, PodRule
from dcp_operator.api.storage_url import ADDRESS_OPTIONS, FORBIDDEN_NETWORKS, METADATA_HOSTS
from dcp_operator.api.store.spec import AccessMode

MANIFESTS: Final = Path(__file__).parents[3] / "manifests"
_HEADER: Final = "# Generated from operator/dcp_operator/api by `make crd`; do not edit.\n"
_TEMPLATE: Final = "spec.workers.podTemplate"
_HELD: Final = ("workload.?args", "storage.?options", "workers.?podTemplate")
"""Free-form fields, as CEL reads them below the spec."""
_NEW: Final = (
    "oldObject == null || object.spec.?workers.?podTemplate != oldObject.spec.?workers.?podTemplate || "
    "object.spec.storage != oldObject.spec.storage"
)

_NEW_SERIES: Final = (
    "oldObject == null || object.spec.template.spec != oldObject.spec.template.spec || "
    "object.spec.?storage != oldObject.spec.?storage"
)

_POLICY: Final = "deletionPolicy"

Policy = dict[str, Any]


class Plain(yaml.SafeDumper):
    """YAML without anchors, which no reader of a manifest expects."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the library's signature
        """Write everything out where it stands."""
        return True


def files() -> tuple[tuple[Path, str], ...]:
    """Return each generated file with its text."""
    return (
        (
            MANIFESTS / "api" / "admission.yaml",
            _text(still(), shallow(), everywhere(), of_series(shallow()), of_series(everywhere()), by_store()),
        ),
        (MANIFESTS / "api" / "admission-operator.yaml", _text(by_operator())),
        (MANIFESTS / "api" / "admission-restricted.yaml", _text(restricted(), of_series(restricted()))),
    )


def still() -> Policy:
    """Return the policy that holds the free-form fields still."""
    validations = [
        {
            "expression": f"object.spec.?{field} == oldObject.spec.?{field}",
            "message": f"spec.{field.replace('.?', '.')} is immutable; {ANOTHER}",
            "reason": "Forbidden",
        }
        for field in _HELD
    ]
    return _policy("still", ["UPDATE"], validations)


def shallow() -> Policy:
    """Return the policy of how deep a free-form field may be."""
    fields = {field: f"object.spec.?{section}.?{field}" for section, field in FREE_FORM}
    policy = _policy("shallow", ["CREATE", "UPDATE"], [
        {
            "expression": cel(f"variables.{field}"),
            "message": f"spec.{section}.{field}: {TOO_DEEP}",
            "reason": "Invalid",
        }
        for section, field in FREE_FORM
    ])  # fmt: skip
    changed = (f"{at} != {at.replace('object', 'oldObject', 1)}" for at in fields.values())
    policy["spec"]["matchConditions"] = [
        {"name": "new-or-changed", "expression": " || ".join(["oldObject == null", *changed])}
    ]
    policy["spec"]["variables"] = [
        {"name": field, "expression": f"{at}.orValue(dyn(null))"} for field, at in fields.items()
    ]
    return policy


def everywhere() -> Policy:
    """Return the policy of what no worker pod may have: plain secrets, API tokens, and what is the operator's."""
    return _pods(
        "pods",
        [rule for rule in POD_RULES if not rule.profile],
        [_mounted(), *(_address(option) for option in ADDRESS_OPTIONS)],
    )


def restricted() -> Policy:
    """Return the policy of the `restricted` profile, left out where namespaces judge by themselves."""
    return _pods("restricted", [rule for rule in POD_RULES if rule.profile], [])


def by_store() -> Policy:
    """Return the policy that a store of accessMode ReadOnly takes no operation that changes what stands there.

    Each store of the namespace is a parameter. Which is the default one no policy can tell, so a path without a name is
    left to the operator. So is all of it where stores can't be read.
    """
    reading = [each.value for each in Operation if rules_of(each).url_use is UrlUse.READS]
    named = "object.spec.?storage.?store.?name.orValue('')"
    said = f"'spec.storage.store: store ' + {named} + ' is ReadOnly; write another one, or operation: Load'"
    made = _policy("read-only", ["CREATE"], [
        {
            "expression": f"{named} != params.metadata.name || params.spec.accessMode != '{AccessMode.READ_ONLY}' || "
            f"object.spec.operation in {reading}",
            "messageExpression": said,
            "reason": "Forbidden",
        }
    ])  # fmt: skip
    made["spec"] |= {"failurePolicy": "Ignore", "paramKind": {"apiVersion": f"{GROUP}/{VERSION}", "kind": STORE_KIND}}
    return made


def by_operator() -> Policy:
    """Return the policy of what an account of the operator (`dcp-operator`, in whichever namespace) changes itself.

    RBAC can't grant a finalizer. Of a Checkpoint it puts on and takes off its own, and has data stay.
    """
    held = [field.alias for field in CheckpointSpec.model_fields.values() if field.alias != _POLICY]
    before, after = "oldObject.metadata.?finalizers.orValue([])", "object.metadata.?finalizers.orValue([])"
    meta = ("labels", "annotations", "ownerReferences")
    policy = f"object.spec.?{_POLICY}"
    same = f"({policy} == oldObject.spec.?{_POLICY} || {policy}.orValue('') == '{DeletionPolicy.RETAIN}')"
    rules = {
        "the operator changes no field of a spec but deletionPolicy, to Retain": " && ".join(
            (
                *(f"object.spec.?{field} == oldObject.spec.?{field}" for field in held),
                same,
            )
        ),
        f"the operator changes no finalizer but {DATA_FINALIZER}": (
            f"{after}.all(each, each == '{DATA_FINALIZER}' || each in {before}) && "
            f"{before}.all(each, each == '{DATA_FINALIZER}' || each in {after})"
        ),
        "the operator changes neither labels nor annotations nor owners of a Checkpoint": " && ".join(
            f"object.metadata.?{field} == oldObject.metadata.?{field}" for field in meta
        ),
    }
    validations = [
        {"expression": expression, "message": message, "reason": "Forbidden"} for message, expression in rules.items()
    ]
    found = _policy("operator", ["UPDATE"], validations)
    account = "request.userInfo.username.matches('^system:serviceaccount:[^:]+:dcp-operator$')"
    found["spec"]["matchConditions"] = [{"name": "by-the-operator", "expression": account}]
    return found


def of_series(policy: Policy) -> Policy:
    """Return a policy of Checkpoints as one of the templates of series: a secret there would lie in etcd as well.

    A series that saves has its storage beside the template, or is a training's; any other has it in the template.
    """
    spec = json.loads(
        json.dumps(policy["spec"])
        .replace("object.spec.storage", "variables.storage")
        .replace("object.spec", "object.spec.template.spec")
        .replace("oldObject.spec", "oldObject.spec.template.spec")
        .replace(_TEMPLATE, f"spec.template.{_TEMPLATE}")
        .replace("spec.workload.args:", "spec.template.spec.workload.args:")
    )
    spec["matchConstraints"]["resourceRules"][0]["resources"] = [SERIES_PLURAL]
    spec["matchConditions"] = [{"name": "new-or-changed", "expression": _NEW_SERIES}]
    own, read = "object.spec.storage", "object.spec.template.spec.storage"
    storage = f"has({own}) ? dyn({own}) : has({read}) ? dyn({read}) : dyn({{}})"
    spec["variables"] = [{"name": "storage", "expression": storage}, *spec["variables"]]
    name = policy["metadata"]["name"].replace(PLURAL, SERIES_PLURAL, 1)
    return {**policy, "metadata": {**policy["metadata"], "name": name}, "spec": spec}


def _pods(name: str, rules: list[PodRule], more: list[dict[str, str]]) -> Policy:
    validations = {
        # Two rules that differ in what they say may be one in CEL.
        rule.cel: {"expression": rule.cel, "message": f"{_TEMPLATE}{rule.field}: {rule.message}", "reason": "Invalid"}
        for rule in reversed(rules)
    }
    policy = _policy(name, ["CREATE", "UPDATE"], [*reversed(validations.values()), *more])
    policy["spec"]["matchConditions"] = [{"name": "new-or-changed", "expression": _NEW}]
    policy["spec"]["variables"] = [{"name": key, "expression": value} for key, value in VARIABLES.items()]
    return policy


def _mounted() -> dict[str, str]:
    """Return the rule that a file:// URL lies on a volume; `rules` has it for the operator's own check."""
    mounts = (
        "(type(c[?'volumeMounts'].orValue(dyn(null))) == list ? c.volumeMounts : []).exists(m, type(m) == map && "
        "type(m[?'mountPath'].orValue(dyn(null))) == string && "
        "object.spec.storage.url.substring(7).startsWith(string(m.mountPath).endsWith('/') ? m.mountPath : "
        "string(m.mountPath) + '/'))"
    )
    return {
        "expression": "has(object.spec.target) || !has(object.spec.storage.url) || "
        f"!object.spec.storage.url.startsWith('file://') || variables.containers.exists(c, "
        f"c[?'name'].orValue(dyn(null)) == '{WORKER_CONTAINER}' && {mounts})",
        "message": "spec.storage.url: a path of the pod's own file system is gone with the pod; mount a volume over it "
        "in spec.workers.podTemplate, or write s3://...",
        "reason": "Invalid",
    }


def _address(option: str) -> dict[str, str]:
    """Return the rule that an address is no metadata service's: `storage_url` in CEL.

    What is a number to a resolver and no plain address here (2852039166, 0xa9fea9fe, ::ffff:a9fe:a9fe, fe80::1%25eth0)
    is refused whole: no store needs such a spelling. The CRD can't have this rule, whose cost has no bound there.
    """
    value = f"object.spec.storage.options.{option}"
    host = f"url({value}).getHostname().lowerAscii()"
    names = "|".join(name.replace(".", "[.]") for name in sorted(METADATA_HOSTS))
    networks = " || ".join(f"cidr('{network}').containsIP(ip({host}))" for network in FORBIDDEN_NETWORKS)
    address = f"(ip({host}).isGlobalUnicast() || ip({host}).isLoopback()) && !({networks})"
    number = f"{host}.matches('^((0x[0-9a-f]+|[0-9]+)([.](0x[0-9a-f]+|[0-9]+))*[.]?|.*:.*)$')"
    named = f"!{number} && !{host}.matches('^({names})[.]*$')"
    return {
        "expression": f"!has(object.spec.storage.options) || !has({value}) || !isURL({value}) || "
        f"(isIP({host}) ? {address} : {named})",
        "message": f"spec.storage.options.{option}: link-local and metadata addresses are refused; write the address "
        "of a store",
        "reason": "Invalid",
    }


def _policy(name: str, operations: list[str], validations: list[dict[str, str]]) -> Policy:
    rules = [{"apiGroups": [GROUP], "apiVersions": [VERSION], "operations": operations, "resources": [PLURAL]}]
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": _metadata(name),
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": rules},
            "validations": validations,
        },
    }


def _metadata(name: str) -> dict[str, Any]:
    return {"name": f"{PLURAL}-{name}.{GROUP}", "labels": {"app.kubernetes.io/name": "dcp-operator"}}


def _each_parameter(policy: Policy) -> dict[str, Any]:
    """Return how a binding finds the parameters of a policy: each of the kind in the object's namespace."""
    if "paramKind" not in policy["spec"]:
        return {}
    return {"paramRef": {"selector": {}, "parameterNotFoundAction": "Allow"}}


def _text(*policies: Policy) -> str:
    documents = []
    for policy in policies:
        name = policy["metadata"]["name"]
        binding = {
            "apiVersion": policy["apiVersion"],
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": policy["metadata"],
            "spec": {"policyName": name, "validationActions": ["Deny"], **_each_parameter(policy)},
        }
        documents += [policy, binding]
    return _HEADER + yaml.dump_all(documents, Dumper=Plain, sort_keys=False, width=1000)
