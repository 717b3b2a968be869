"""A Save: where it starts from, and that it takes turns with others of its URL."""

from collections.abc import Iterator
from typing import Final

from dcp_operator.api.checkpoint.cel import kept, still, still_selection, url_rules
from dcp_operator.api.checkpoint.operations import OperationRules, UrlUse
from dcp_operator.api.checkpoint.spec import CheckpointSpec
from dcp_operator.api.site import Site
from dcp_operator.api.storage_url import protocol, url_problems

_SPEC: Final = ("spec",)
_SAVE: Final = (*_SPEC, "save")
_FROM: Final = (*_SAVE, "from")


def _problems(spec: CheckpointSpec, site: Site) -> Iterator[str]:
    source = spec.of_save.from_
    if source is None:
        return
    yield from url_problems("spec.save.from.url", source.url, site.protocols)
    if spec.storage.url and protocol(source.url) != protocol(spec.storage.url):
        yield "spec.save.from.url: is read with the options of spec.storage; write a URL of the same protocol"


RULES: Final = OperationRules(
    problems=_problems,
    cel=(
        *url_rules(_FROM),
        kept(_SPEC, "save"),
        still(_SAVE, "ifExists"),
        still(_SAVE, "steps"),
        kept(_SAVE, "from"),
        still(_FROM, "url"),
        *still_selection(_FROM),
    ),
    ends_with_commit=True,
    url_use=UrlUse.WRITES,
)
