"""A Save: where it starts from, and that it takes turns with others of its URL."""

from collections.abc import Iterator
from typing import Final

from dcp_contract.sections import LoadSelection
from dcp_operator.api.checkpoint.cel import still, url_rules
from dcp_operator.api.checkpoint.operations import OperationRules
from dcp_operator.api.checkpoint.spec import CheckpointSpec
from dcp_operator.api.site import Site
from dcp_operator.api.storage_url import protocol, url_problems

_WORKLOAD: Final = ("spec", "workload")


def _problems(spec: CheckpointSpec, site: Site) -> Iterator[str]:
    source = spec.workload.from_ if spec.workload is not None else None
    if source is None:
        if spec.load != LoadSelection():
            yield "spec.load: this Save loads nothing; drop load"
        return
    yield from url_problems("spec.workload.from.url", source.url, site.protocols)
    if protocol(source.url) != protocol(spec.storage.url):
        yield "spec.workload.from.url: is read with the options of spec.storage; write a URL of the same protocol"


RULES: Final = OperationRules(
    problems=_problems,
    cel=(
        *url_rules((*_WORKLOAD, "from")),
        still(_WORKLOAD, "steps"),
        still(_WORKLOAD, "from", optional=True),
    ),
    ends_with_commit=True,
    claims_url=True,
)
