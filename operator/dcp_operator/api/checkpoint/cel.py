"""What CEL rules of the CRD are made of: one rule, and the forms that come again and again."""

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True)
class Rule:
    """One CEL rule on the schema at `at`, a path below the object."""

    at: tuple[str, ...]
    cel: str
    message: str
    field: str = ""
    """The field below `at` that a refusal names."""
    reason: str = ""
    """The API server's own word for what is wrong, where it is not the value."""

    def to_dict(self) -> dict[str, str]:
        """Return the entry of x-kubernetes-validations."""
        field = {"fieldPath": f".{self.field}"} if self.field else {}
        reason = {"reason": self.reason} if self.reason else {}
        return {"rule": self.cel, "message": self.message, **field, **reason}


ANOTHER: Final = (
    "apply another Checkpoint under another name, or delete this one first: its data stays (deletionPolicy: Retain)"
)
"""What to do where a field is immutable."""

FORBIDDEN: Final = "FieldValueForbidden"
"""The API server's reason for what must not change."""


def still(at: tuple[str, ...], field: str, *, optional: bool = False) -> Rule:
    """Return the rule that a field stays as it is."""
    same = f"self.{field} == oldSelf.{field}"
    if optional:
        same = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || {same})"
    return Rule(at, same, f"is immutable; {ANOTHER}", field, FORBIDDEN)


def kept(at: tuple[str, ...], field: str) -> Rule:
    """Return the rule that an optional section stays there, or stays away; its own fields have their own rules."""
    return Rule(
        at,
        f"has(self.{field}) == has(oldSelf.{field})",
        f"can't be added or removed; {ANOTHER}",
        field,
        FORBIDDEN,
    )


def still_selection(at: tuple[str, ...]) -> tuple[Rule, ...]:
    """Return the rules that a selection of what is loaded stays as it is."""
    return (still(at, "strict"), still_list(at, "include"), still_list(at, "exclude"))


def still_list(at: tuple[str, ...], field: str) -> Rule:
    """Return the rule that a list stays as it is: one that is empty says the same as none."""
    new, old = f"self.{field}", f"oldSelf.{field}"
    # Not by orValue: the API server could not tell what the comparison may cost.
    empty = f"(!has({old}) || {old}.size() == 0)"
    same = f"(!has({new}) || {new}.size() == 0 ? {empty} : has({old}) && {new} == {old})"
    return Rule(at, same, f"is immutable; {ANOTHER}", field, FORBIDDEN)


def url_rules(at: tuple[str, ...], *, optional: bool = False, field: str = "url") -> tuple[Rule, ...]:
    """Return the rules of a checkpoint's URL; which protocols are served is the operator's to say.

    Args:
        at: Where the URL's section is.
        optional: Whether the URL may be left out.
        field: The URL's name there.
    """
    if field != "url":
        plain = url_rules(at, optional=optional)
        return tuple(replace(each, cel=each.cel.replace("self.url", f"self.{field}"), field=field) for each in plain)
    if optional:
        return tuple(replace(each, cel=f"!has(self.url) || ({each.cel})") for each in url_rules(at))
    local = "self.url.matches('^(file|memory)://')"
    in_bucket = Rule(
        at,
        f"{local} || self.url.contains('::') || self.url.matches('://[^/]+/+[^/]') || !self.url.contains('://')",
        "names no path in a bucket; write protocol://bucket/path, with a path of its own per checkpoint",
        "url",
    )
    return (*prefix_rules(at), in_bucket)


def prefix_rules(at: tuple[str, ...]) -> tuple[Rule, ...]:
    """Return the rules of a URL that may be a whole bucket, in the section at that place."""
    azure = "self.url.matches('^(az|abfs)://')"
    return (
        Rule(
            at,
            "!self.url.contains('::')",
            "chained URLs are not accepted; write the address of the store itself, such as s3://bucket/path",
            "url",
        ),
        Rule(
            at,
            "self.url.contains('::') || self.url.matches('^[a-z][a-z0-9]*://.')",
            "write protocol://bucket/path, such as s3://bucket/run/step-1000, or file:///path for a mounted volume",
            "url",
        ),
        Rule(
            at,
            r"!self.url.matches('[\\s?#\\\\*]')",
            r"holds a space or one of ? # \ *; write a plain path of letters, digits, and . _ - / =",
            "url",
        ),
        Rule(
            at,
            "!self.url.matches('/[.][.](/|$)')",
            "is not a plain URL; write protocol://bucket/path without '..'",
            "url",
        ),
        Rule(
            at,
            f"!self.url.matches('://[^/]*@') || ({azure} && !self.url.matches('://[^/]*:[^/]*@'))",
            "holds credentials; write the URL alone and move them to credentialsSecretRef",
            "url",
        ),
        Rule(
            at,
            "!self.url.startsWith('file://') || self.url.matches('^file:///.')",
            "names no absolute path; write file:///path",
            "url",
        ),
    )
