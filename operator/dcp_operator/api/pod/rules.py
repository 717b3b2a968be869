"""What a podTemplate may not hold: one table, of which the operator's own check and the admission policy are made.

Each rule stands here twice, side by side: as a function over the template, and in CEL for the API server, which refuses
before anything is stored. Lists of names and patterns are written once and used by both.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dcp_contract.environment import (
    CA_ENV,
    CREDENTIALS_ENV,
    MASTER_ADDR_ENV,
    MASTER_PORT_ENV,
    REPORT_LIMIT_ENV,
    TASK_ENV,
)
from dcp_operator.api.naming import GROUP, WORKER_CONTAINER
from dcp_operator.api.pod.cel import (
    cel_at,
    cel_map,
    cel_maps,
    cel_names,
    cel_null_or,
    cel_pattern,
)
from dcp_operator.api.pod.fields import FIELD
from dcp_operator.api.pod.known_secrets import CREDENTIAL_ENV, PASSWORD_URL, SECRET_ENV
from dcp_operator.api.pod.security_context import CONTAINER_PROFILE, POD_PROFILE, context_cel, permitted
from dcp_operator.api.pod.template import MERGE_KEYS, Node, TemplateView, mapping, mappings

Found = Iterator[tuple[str, str]]
"""Paths below the podTemplate at which a rule is broken, each with what the message begins with."""


class PodSecurity(StrEnum):
    """Who judges what a worker pod may do to its node."""

    RESTRICTED = "restricted"
    """The operator: what Pod Security `restricted` forbids is refused."""
    NAMESPACE = "namespace"
    """The namespace's own Pod Security admission; the operator's settings are defaults then."""


@dataclass(frozen=True, kw_only=True)
class PodRule:
    """One thing that a podTemplate may not hold."""

    field: str
    """Where it may not be, below the podTemplate: what the API server's refusal names."""
    message: str
    check: Callable[[TemplateView], Found]
    cel: str
    """True where the rule holds, in the words of VARIABLES."""
    profile: bool = False
    """Whether it is of the `restricted` profile, which a namespace may judge by itself."""


_OURS: Final = {
    "shareProcessNamespace": "drop it, the operator sets it so that a SIGTERM always arrives",
    "hostname": "drop it, ranks find one another by the Indexed Job's own names",
    "hostnameOverride": "drop it, ranks find one another by the Indexed Job's own names",
    "subdomain": "drop it, ranks find one another by the Indexed Job's own names",
    "setHostnameAsFQDN": "drop it",
    "restartPolicy": "drop it, retries are spec.retries",
    "activeDeadlineSeconds": "write spec.timeouts.activeSeconds",
    "terminationGracePeriodSeconds": "drop it, a terminated rank needs the operator's own time to report",
    "nodeName": "write nodeSelector or affinity, so that the scheduler still decides",
    "ephemeralContainers": "drop it",
}
"""Fields of a pod's spec that stay ours, each with what to write instead."""
HOST_FIELDS: Final = ("hostNetwork", "hostPID", "hostIPC")
"""Fields of a pod's spec that share the node's namespaces."""

_VOLUMES: Final = (
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
)  # fmt: skip
"""Volume types of Pod Security `restricted`."""
_TOKEN_PATH: Final = r"^/+(var/+)?run/+secrets/+kubernetes\.io/+serviceaccount"  # noqa: S105 - where a token would be, not a token
_API_AUDIENCE: Final = (
    r"^([a-z]+://)?(kubernetes(\.default(\.svc(\..*)?)?)?([:/].*)?$"
    r"|(k3s|rke2)$|oidc\.eks\.|container\.googleapis\.com/v1/projects/|[^/]*\.azmk8s\.io|[^/]*\.oic\.prod-aks\.azure\.com)"
)
"""Audiences that API servers take for their own: by default, and on the large clouds."""

_API_SIGNERS: Final = "kubernetes.io/"
"""Whose certificates API servers take."""
_APP_ARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"

OPERATOR_ENV: Final = (CA_ENV, CREDENTIALS_ENV, MASTER_ADDR_ENV, MASTER_PORT_ENV, REPORT_LIMIT_ENV, TASK_ENV)
"""Environment variables by which the operator speaks to the launcher."""

_WORKER_OURS: Final = {
    "image": "write spec.workers.image",
    "command": "write spec.workload.entrypoint",
    "args": "write spec.workload.args",
    "restartPolicy": "drop it, retries are spec.retries",
    "restartPolicyRules": "drop it, retries are spec.retries",
}
_POD_CONTEXT: Final = "runAsUser, runAsGroup, fsGroup or supplementalGroups above 0"
_CONTAINER_CONTEXT: Final = "runAsUser or runAsGroup above 0"
_PROFILE: Final = "is not accepted; write {} and leave the rest of the restricted profile to the operator"


def _of_pod(key: str, instead: str, *, profile: bool = False) -> PodRule:
    def check(view: TemplateView) -> Found:
        value = view.pod.get(key)
        if value is not None and value is not False:
            yield f".spec.{key}", ""

    value = cel_at("variables.pod", key)
    cel = f"{value} == null || {value} == false"
    return PodRule(field=f".spec.{key}", message=f"is not accepted; {instead}", check=check, cel=cel, profile=profile)


def _of_containers(
    below: str, message: str, check: Callable[[Node], Found], cel: str, *, profile: bool = False
) -> PodRule:
    """Return a rule that each container has to keep; in CEL the container is c."""

    def everywhere(view: TemplateView) -> Found:
        for path, container in view.containers:
            yield from ((f"{path}{inner}", subject) for inner, subject in check(container))

    return PodRule(
        field=f".spec.containers{below}",
        message=message,
        check=everywhere,
        cel=f"variables.containers.all(c, {cel})",
        profile=profile,
    )


def _envelope(view: TemplateView) -> Found:
    if not all(isinstance(view.template.get(key), Mapping | None) for key in ("metadata", "spec")):
        yield "", ""


def _unknown(view: TemplateView) -> Found:
    yield from ((f".{key}", "") for key in sorted(view.template.keys() - {"metadata", "spec"}))


def _metadata(view: TemplateView) -> Found:
    yield from ((f".metadata.{key}", "") for key in sorted(view.metadata.keys() - {"labels", "annotations"}))


def _labels(view: TemplateView) -> Found:
    if any(str(key).startswith(f"{GROUP}/") for key in mapping(view.metadata.get("labels"))):
        yield ".metadata.labels", ""


def _token(view: TemplateView) -> Found:
    if view.pod.get("automountServiceAccountToken"):
        yield ".spec.automountServiceAccountToken", ""


def _volume_types(view: TemplateView) -> Found:
    for index, volume in view.volumes:
        for kind in sorted(volume.keys() - {"name"} - set(_VOLUMES)):
            yield f".spec.volumes[{index}].{kind}", ""


def _projected_tokens(view: TemplateView) -> Found:
    for index, volume in view.volumes:
        for _, source in mappings(mapping(volume.get("projected")).get("sources")):
            if "serviceAccountToken" in source and not _foreign(source["serviceAccountToken"]):
                yield f".spec.volumes[{index}].projected", ""


def _api_certificates(view: TemplateView) -> Found:
    for index, volume in view.volumes:
        for _, source in mappings(mapping(volume.get("projected")).get("sources")):
            signer = mapping(source.get("podCertificate")).get("signerName")
            if str(signer or "").startswith(_API_SIGNERS):
                yield f".spec.volumes[{index}].projected", ""


def _app_armor(view: TemplateView) -> Found:
    if any(str(key).startswith(_APP_ARMOR) for key in mapping(view.metadata.get("annotations"))):
        yield ".metadata.annotations", ""


def _foreign(token: object) -> bool:
    audience = mapping(token).get("audience")
    return isinstance(audience, str) and bool(audience) and not re.search(_API_AUDIENCE, audience)


_FOREIGN: Final = (
    "type(s.serviceAccountToken) == map && type(s.serviceAccountToken[?'audience'].orValue(dyn(null))) == string && "
    "s.serviceAccountToken.audience != '' && "
    f"!string(s.serviceAccountToken.audience).matches({cel_pattern(_API_AUDIENCE)})"
)


def _pod_context(view: TemplateView) -> Found:
    for key, value in mapping(view.pod.get("securityContext")).items():
        if not permitted(key, value, POD_PROFILE):
            yield f".spec.securityContext.{key}", ""


def _container_context(container: Node) -> Found:
    for key, value in mapping(container.get("securityContext")).items():
        if not permitted(key, value, CONTAINER_PROFILE):
            yield f".securityContext.{key}", ""


def _shapes(node: Node, path: str, keys: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """Yield what `merged` could not merge: path, and the type that is wanted there."""
    for key in keys:
        items = node.get(key)
        if items is None:
            continue
        if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
            yield f"{path}.{key}", "a list of mappings", key
            continue
        for index, item in enumerate(items):
            for part in MERGE_KEYS[key]:
                if not isinstance(item.get(part), str | None):
                    yield f"{path}.{key}[{index}].{part}", "a string", key


def _shape_cel(of: str, key: str) -> str:
    value = cel_at(of, key)
    parts = " && ".join(cel_null_or("i", part, "string") for part in MERGE_KEYS[key])
    return f"{value} == null || (type({value}) == list && {value}.all(i, type(i) == map && {parts}))"


_POD_LISTS: Final = ("containers", "initContainers", "volumes", "tolerations")
_CONTAINER_LISTS: Final = ("env", "volumeMounts")


def _pod_lists(wanted: str) -> Callable[[TemplateView], Found]:
    def check(view: TemplateView) -> Found:
        yield from ((path, "") for path, kind, _ in _shapes(view.pod, ".spec", _POD_LISTS) if kind == wanted)

    return check


def _container_lists(wanted: str) -> Callable[[Node], Found]:
    def check(container: Node) -> Found:
        yield from ((path, "") for path, kind, _ in _shapes(container, "", _CONTAINER_LISTS) if kind == wanted)

    return check


def _sections(container: Node) -> Found:
    resources = container.get("resources")
    if not isinstance(resources, Mapping):
        yield from () if resources is None else ((".resources", ""),)
        return
    kinds = {key: list if key == "claims" else Mapping for key in resources}
    if not all(resources[key] is None or isinstance(resources[key], kind) for key, kind in kinds.items()):
        yield ".resources", ""


def _context_shapes(view: TemplateView) -> Found:
    for path, node in ((".spec", view.pod), *view.containers):
        if not isinstance(node.get("securityContext"), Mapping | None):
            yield f"{path}.securityContext", ""


def _named(container: Node) -> Found:
    if not container.get("name"):
        yield ".name", ""


def _secrets(names: Iterable[str]) -> Callable[[Node], Found]:
    known = frozenset(names)

    def check(container: Node) -> Found:
        for _, entry in mappings(container.get("env")):
            if str(entry.get("name")) in known and entry.get("value"):
                yield ".env", f"{entry['name']} "

    return check


def _secret_cel(names: Iterable[str]) -> str:
    name, value = cel_at("e", "name"), cel_at("e", "value")
    return f"{cel_maps('c', 'env')}.all(e, !({name} in {cel_names(names)}) || {value} == null || {value} == '')"


def _password_urls(container: Node) -> Found:
    for _, entry in mappings(container.get("env")):
        value = entry.get("value")
        if isinstance(value, str) and re.search(PASSWORD_URL, value):
            yield ".env", f"{entry.get('name')} "


def _host_ports(container: Node) -> Found:
    if any(port.get("hostPort") for _, port in mappings(container.get("ports"))):
        yield ".ports", ""


def _token_mounts(container: Node) -> Found:
    for _, mount in mappings(container.get("volumeMounts")):
        if re.search(_TOKEN_PATH, str(mount.get("mountPath") or "")):
            yield ".volumeMounts", ""


def _of_worker(key: str, instead: str) -> PodRule:
    def check(container: Node) -> Found:
        if container.get("name") == WORKER_CONTAINER and container.get(key) is not None:
            yield f".{key}", ""

    message = f"is not accepted in the container {WORKER_CONTAINER}; {instead}"
    cel = f"{cel_at('c', 'name')} != '{WORKER_CONTAINER}' || {cel_at('c', key)} == null"
    return _of_containers(f".{key}", message, check, cel)


def _operator_env(container: Node) -> Found:
    for _, entry in mappings(container.get("env")):
        if container.get("name") == WORKER_CONTAINER and str(entry.get("name")) in OPERATOR_ENV:
            yield ".env", f"{entry['name']} "


def _both(of: str, keys: tuple[str, ...]) -> str:
    return " && ".join(f"({_shape_cel(of, key)})" for key in keys)


POD_RULES: Final = (
    PodRule(
        field="",
        message="metadata and spec have the wrong type; write mappings",
        check=_envelope,
        cel=" && ".join(cel_null_or("variables.template", key, "map") for key in ("metadata", "spec")),
    ),
    PodRule(
        field="",
        message="unknown field; write metadata (labels, annotations) or spec",
        check=_unknown,
        cel="variables.template.all(k, k in ['metadata', 'spec'])",
    ),
    PodRule(
        field=".metadata",
        message="is not accepted; write labels or annotations",
        check=_metadata,
        cel=f"{cel_map('variables.template', 'metadata')}.all(k, k in ['labels', 'annotations'])",
    ),
    PodRule(
        field=".metadata.labels",
        message=f"labels of {GROUP} are the operator's own, by which it knows its pods; drop them",
        check=_labels,
        cel=f"{cel_map(cel_map('variables.template', 'metadata'), 'labels')}.all(k, !k.startsWith('{GROUP}/'))",
    ),
    *(_of_pod(key, instead) for key, instead in _OURS.items()),
    *(_of_pod(key, "drop it", profile=True) for key in HOST_FIELDS),
    PodRule(
        field=".spec.automountServiceAccountToken",
        message="workers get no API token; drop it",
        check=_token,
        cel="{0} == null || {0} == false".format(cel_at("variables.pod", "automountServiceAccountToken")),
    ),
    PodRule(
        field=".spec",
        message="has the wrong type; write a list of mappings",
        check=_pod_lists("a list of mappings"),
        cel=_both("variables.pod", _POD_LISTS),
    ),
    PodRule(
        field=".spec",
        message="has the wrong type; write a string",
        check=_pod_lists("a string"),
        cel=_both("variables.pod", _POD_LISTS),
    ),
    PodRule(
        field=".spec.securityContext",
        message="has the wrong type; write a mapping",
        check=_context_shapes,
        cel=f"{cel_null_or('variables.pod', 'securityContext', 'map')} && "
        f"variables.containers.all(c, {cel_null_or('c', 'securityContext', 'map')})",
    ),
    PodRule(
        field=".spec.securityContext",
        message=_PROFILE.format(_POD_CONTEXT),
        check=_pod_context,
        cel=context_cel("variables.pod", POD_PROFILE),
        profile=True,
    ),
    PodRule(
        field=".spec.volumes",
        message=f"is not accepted; write one of: {', '.join(_VOLUMES)}",
        check=_volume_types,
        cel=f"variables.volumes.all(v, v.all(k, k in {cel_names(('name', *_VOLUMES))}))",
        profile=True,
    ),
    PodRule(
        field=".spec.volumes.projected",
        message="workers get no API token; drop the serviceAccountToken source, or write the audience that it is for",
        check=_projected_tokens,
        cel=f"variables.volumes.all(v, {cel_maps(cel_map('v', 'projected'), 'sources')}.all(s, "
        f"!('serviceAccountToken' in s) || ({_FOREIGN})))",
    ),
    PodRule(
        field=".spec.volumes.projected",
        message="workers get no certificate for the API server; drop the podCertificate of a kubernetes.io signer",
        check=_api_certificates,
        cel=f"variables.volumes.all(v, {cel_maps(cel_map('v', 'projected'), 'sources')}.all(s, "
        f"!string({cel_map('s', 'podCertificate')}[?'signerName'].orValue('')).startsWith('{_API_SIGNERS}')))",
    ),
    PodRule(
        field=".metadata.annotations",
        message="an AppArmor profile is not accepted; drop it",
        check=_app_armor,
        cel=f"{cel_map(cel_map('variables.template', 'metadata'), 'annotations')}.all(k, "
        f"!k.startsWith('{_APP_ARMOR}'))",
        profile=True,
    ),
    _of_containers(
        ".name",
        f"is missing; write {WORKER_CONTAINER} for the ranks' container, or a name of its own",
        _named,
        f"!({cel_at('c', 'name')} == null) && {cel_at('c', 'name')} != ''",
    ),
    _of_containers(
        ".securityContext",
        _PROFILE.format(_CONTAINER_CONTEXT),
        _container_context,
        context_cel("c", CONTAINER_PROFILE),
        profile=True,
    ),
    _of_containers(
        ".env",
        "holds a secret in plain text; move it to credentialsSecretRef",
        _secrets(CREDENTIAL_ENV),
        _secret_cel(CREDENTIAL_ENV),
    ),
    _of_containers(
        ".env",
        "holds a secret in plain text; move it to a Secret and write valueFrom.secretKeyRef",
        _secrets(SECRET_ENV),
        _secret_cel(SECRET_ENV),
    ),
    _of_containers(
        ".env",
        "holds an address with a password in plain text; move it to a Secret and write valueFrom.secretKeyRef",
        _password_urls,
        f"{cel_maps('c', 'env')}.all(e, type({cel_at('e', 'value')}) != string || "
        f"!string(e.value).matches({cel_pattern(PASSWORD_URL)}))",
    ),
    _of_containers(
        ".ports",
        "a hostPort is not accepted; drop it",
        _host_ports,
        f"{cel_maps('c', 'ports')}.all(p, {cel_at('p', 'hostPort')} == null || p.hostPort == 0)",
        profile=True,
    ),
    _of_containers(
        ".volumeMounts",
        "workers get no API token; drop the mount under /var/run/secrets/kubernetes.io/serviceaccount",
        _token_mounts,
        f"{cel_maps('c', 'volumeMounts')}.all(m, type({cel_at('m', 'mountPath')}) != string || "
        f"!string(m.mountPath).matches({cel_pattern(_TOKEN_PATH)}))",
    ),
    _of_containers(
        "",
        "has the wrong type; write a list of mappings",
        _container_lists("a list of mappings"),
        _both("c", _CONTAINER_LISTS),
    ),
    _of_containers(
        "", "has the wrong type; write a string", _container_lists("a string"), _both("c", _CONTAINER_LISTS)
    ),
    _of_containers(
        ".resources",
        "has the wrong type; write limits and requests, each a mapping, and claims, a list",
        _sections,
        f"{cel_at('c', 'resources')} == null || (type(c.resources) == map && c.resources.all(k, "
        "c.resources[k] == null || (k == 'claims' ? type(c.resources[k]) == list : type(c.resources[k]) == map)))",
    ),
    _of_containers(
        ".env",
        "is the operator's own; drop it",
        _operator_env,
        f"{cel_at('c', 'name')} != '{WORKER_CONTAINER}' || "
        f"{cel_maps('c', 'env')}.all(e, !({cel_at('e', 'name')} in {cel_names(OPERATOR_ENV)}))",
    ),
    *(_of_worker(key, instead) for key, instead in _WORKER_OURS.items()),
)
"""Every rule, in the order in which broken ones are listed."""


def template_problems(view: TemplateView, security: PodSecurity = PodSecurity.RESTRICTED) -> Iterator[str]:
    """Yield one line for each thing in a podTemplate that the operator refuses."""
    for rule in POD_RULES:
        if rule.profile and security is PodSecurity.NAMESPACE:
            continue
        yield from (f"{FIELD}{path}: {subject}{rule.message}" for path, subject in rule.check(view))
