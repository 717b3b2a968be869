"""A Copy: what it copies, and that it takes turns with others that write to its URL."""

from collections.abc import Iterator
from typing import Final

from dcp_operator.api.checkpoint.cel import Rule, kept, still, url_rules
from dcp_operator.api.checkpoint.operations import OperationRules, UrlUse
from dcp_operator.api.checkpoint.spec import CheckpointSpec, DeletionPolicy
from dcp_operator.api.site import Site
from dcp_operator.api.storage_url import normal, protocol, url_problems

_SPEC: Final = ("spec",)
_COPY: Final = (*_SPEC, "copy")
_FROM: Final = (*_COPY, "from")
_RETAIN: Final = (
    "a copy has the save id of its source, so nobody could tell whose data would go; write Retain, and remove the copy "
    "by a Delete"
)


def _problems(spec: CheckpointSpec, site: Site) -> Iterator[str]:
    if spec.copy_ is None:
        yield "spec.copy: is missing; write copy: {from: {url: s3://bucket/run/step-1000}}"
        return
    source = spec.copy_.from_
    yield from url_problems("spec.copy.from.url", source.url, site.protocols)
    if spec.storage.url and protocol(source.url) != protocol(spec.storage.url):
        yield "spec.copy.from.url: is read with the options of spec.storage; write a URL of the same protocol"
    if normal(source.url) == normal(spec.storage.url):
        yield "spec.copy.from.url: is spec.storage.url, where the copy goes; write another one"
    if spec.deletion_policy is DeletionPolicy.DELETE:
        yield f"spec.deletionPolicy: {_RETAIN}"


RULES: Final = OperationRules(
    problems=_problems,
    cel=(
        *url_rules(_FROM),
        kept(_SPEC, "copy"),
        Rule(_SPEC, "self.operation != 'Copy' || self.deletionPolicy == 'Retain'", _RETAIN, "deletionPolicy"),
        still(_COPY, "ifExists"),
        still(_COPY, "verify"),
        still(_COPY, "bytesPerSecond", optional=True),
        still(_FROM, "url"),
    ),
    url_use=UrlUse.WRITES,
)
