"""What may be said of a store's answer: its code and its message, and never a credential.

Stores quote what was sent to them: S3 the request that it compared a signature with, and the token that expired; a
URL of Azure's, or a signed one, is a credential itself. Errors end up in logs and in an object's status.
"""

import json
import os
import re
from typing import Any, Final
from urllib.parse import quote

from dcp_contract.storage_options import CREDENTIAL_KEYS

_LONGEST: Final = 300
_NO_SECRETS: Final = frozenset(
    {"AWS_ACCESS_KEY_ID", "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_CLIENT_ID", "AZURE_TENANT_ID"}
)
_OWN_NAMES: Final = (
    "AWS_TOKEN", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_TOKEN", "AZURE_CLIENT_CREDENTIAL",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
)  # fmt: skip
"""Names by which obstore, too, finds a secret in the environment."""
_SECRETS: Final = (
    frozenset({name for names in CREDENTIAL_KEYS.values() for name in names} | set(_OWN_NAMES)) - _NO_SECRETS
)
_SHORTEST_SECRET: Final = 6

_NAMES: Final = (
    r"x-(?:amz|goog)-(?:signature|security-token|credential)|signature|sig|aws_?access_?key_?id|google_?access_?id"
    r"|(?:security|session|access|refresh|id|sas|auth)[-_]?token|client[-_]?secret|secret(?:[-_]?access)?[-_]?key"
    r"|account[-_]?key|shared[-_]?access[-_]?signature|password|api[-_]?key"
)
_PAIR: Final = re.compile(rf"(?i)(?<![\w-])({_NAMES})(\\?[\"']?\s*(?:=|:|%3D)\s*\\?[\"']?)[^\s&\"'\\,;<>]+")
"""A name that stands for a secret, and its value."""
_HEADER: Final = re.compile(r"\b(Bearer|Basic|SharedKey|Negotiate)\s+[A-Za-z0-9+/=._:~-]{8,}")
_SIGNED_HEADER: Final = re.compile(r"\b(AWS4-HMAC-SHA256|GOOG4-RSA-SHA256)\b[\s\S]*?Signature=\S+")
_QUERY: Final = re.compile(r"(https?://[^\s?\"'<>]+)\?([^\s\"'<>)]*)")
_PART: Final = re.compile(r"partNumber=\d{1,5}(?=&|\Z)")
"""What of a query is no secret, and tells one request of an upload from another."""
_LOGIN: Final = re.compile(r"(//[^/\s:@]+:)[^/\s@]+@")

_MARKUP: Final = re.compile(
    r"(?:<\?xml[^>]*>\s*)?<(Error|ErrorResponse|Response|html)\b.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE
)
_TAGS: Final = ("Code", "Message", "Region", "Endpoint")
_JSON: Final = ("code", "status", "error", "message", "error_description")
_STATUS: Final = re.compile(r"(status code: \d{3} [A-Za-z' -]+): ", re.DOTALL)


def mask(text: str) -> str:
    """Return a text without the secrets in it: those of this process, and whatever is named as one."""
    for name in _SECRETS:
        value = os.environ.get(name, "").strip()
        if len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "***").replace(quote(value, safe=""), "***")
    text = _MARKUP.sub(lambda found: _of_markup(found[0]), text)
    text = _QUERY.sub(lambda found: found[1] + _told_of(found[2]), text)
    text = _LOGIN.sub(r"\1***@", text)
    text = _SIGNED_HEADER.sub(r"\1 ***", text)
    text = _HEADER.sub(r"\1 ***", text)
    return _PAIR.sub(r"\1\2***", text)


def answer(body: str) -> str:
    """Return in one line what the body of a store's answer says: its code and message, if it has them."""
    text = body.strip().removeprefix("\ufeff")
    if text.startswith(("{", "[")):
        text = _of_json(text)
    return " ".join(mask(text).split())[:_LONGEST]


def sentence(text: str) -> str:
    """Return the same for an error of obstore's, which has the body of the answer at its end."""
    head = _STATUS.search(text)
    return mask(text if head is None else f"{text[: head.start()]}{head[1]}: {answer(text[head.end() :])}")


def _told_of(query: str) -> str:
    part = _PART.match(query)
    return f"?{part[0]}" if part else ""


def _of_markup(body: str) -> str:
    found = {tag: match[1] for tag in _TAGS if (match := re.search(rf"<{tag}>([^<]*)", body))}
    words = ": ".join(found[tag] for tag in ("Code", "Message") if tag in found)
    more = [f"{tag.lower()} {found[tag]}" for tag in ("Region", "Endpoint") if tag in found]
    return " ".join([words, f"({', '.join(more)})"] if more else [words]) or "(a page of markup)"


def _of_json(body: str) -> str:
    try:
        found = json.loads(body)
    except ValueError:
        return "(an answer that is no whole JSON)"
    return ": ".join(dict.fromkeys(_words(found))) or "(JSON without a message)"


def _words(found: Any) -> list[str]:  # noqa: ANN401 - whatever JSON holds
    if isinstance(found, list):
        return [word for each in found[:1] for word in _words(each)]
    if not isinstance(found, dict):
        return []
    words = []
    for name in _JSON:
        value = found.get(name)
        words += _words(value) if isinstance(value, dict) else [str(value)] if value else []
    return words
