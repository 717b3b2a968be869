"""What Pod Security `restricted`, as the operator sets it, leaves to the author of a podTemplate's securityContext."""

from collections.abc import Mapping
from typing import Final

from dcp_operator.api.pod.cel import cel_map, cel_names

USER_IDS: Final = ("runAsUser", "runAsGroup", "fsGroup")
SECCOMP: Final = {"type": "RuntimeDefault"}
POD_PROFILE: Final[Mapping[str, object]] = {"runAsNonRoot": True, "seccompProfile": SECCOMP}
CONTAINER_PROFILE: Final[Mapping[str, object]] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
}
"""What the operator sets in every container; a template may say the same."""


def permitted(key: str, value: object, profile: Mapping[str, object]) -> bool:
    """Say whether `restricted`, as the operator sets it, leaves this field of a securityContext to its author."""
    if value is None or key in {"fsGroupChangePolicy", "supplementalGroupsPolicy"}:
        return True
    if key in USER_IDS:
        return _above_zero(value)
    if key == "supplementalGroups":
        return isinstance(value, list) and all(_above_zero(each) for each in value)
    if key == "privileged":
        return value is False
    same = {**profile, "seccompProfile": SECCOMP}
    return key in same and value == same[key]


def _above_zero(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def context_cel(of: str, profile: Mapping[str, object]) -> str:
    """Return `permitted` in CEL, for the fields k of the mapping s."""

    def literal(value: object) -> str:
        match value:
            case bool():
                return str(value).lower()
            case list():
                return f"[{', '.join(literal(each) for each in value)}]"
            case dict():
                return f"{{{', '.join(f'{literal(key)}: {literal(each)}' for key, each in value.items())}}}"
        return repr(value)

    same = {**profile, "seccompProfile": SECCOMP, "privileged": False}
    ways = [
        "s[k] == null",
        "k in ['fsGroupChangePolicy', 'supplementalGroupsPolicy']",
        f"(k in {cel_names(USER_IDS)} && type(s[k]) == int && s[k] > 0)",
        "(k == 'supplementalGroups' && type(s[k]) == list && s[k].all(g, type(g) == int && g > 0))",
        *(f"(k == {name!r} && s[k] == dyn({literal(value)}))" for name, value in same.items()),
    ]
    return f"[{cel_map(of, 'securityContext')}].all(s, s.all(k, {' || '.join(ways)}))"
