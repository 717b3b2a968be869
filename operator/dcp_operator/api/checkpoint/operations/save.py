"""A Save: where it starts from, and that it takes turns with others of its URL."""

from collections.abc import Iterator
from typing import Final

from dcp_contract.sections import SOURCE_FIELDS
from dcp_operator.api.checkpoint.cel import Rule, kept, still, still_selection, url_rules
from dcp_operator.api.checkpoint.operations import OperationRules, UrlUse
from dcp_operator.api.checkpoint.spec import CheckpointSpec
from dcp_operator.api.site import Site
from dcp_operator.api.storage_url import protocol, url_problems

_SPEC: Final = ("spec",)
_SAVE: Final = (*_SPEC, "save")
_FROM: Final = (*_SAVE, "from")
_ONE: Final = f"write exactly one of {', '.join(SOURCE_FIELDS)}"
_ADOPTS: Final = "is for ifExists: Adopt; write that, or drop it"


def _adoption_problems(spec: CheckpointSpec, site: Site) -> Iterator[str]:
    save = spec.of_save
    if save.adopt_from is not None and not save.adopts:
        yield f"spec.save.adoptFrom: {_ADOPTS}"
    if save.adopts and save.adopt_from is None and not site.knows_cluster:
        yield (
            "spec.save.ifExists: Adopt compares the id of the cluster, which is not known here; write save.adoptFrom, "
            "or have the operator run with --cluster-id"
        )


def _problems(spec: CheckpointSpec, site: Site) -> Iterator[str]:
    yield from _adoption_problems(spec, site)
    source = spec.of_save.from_
    if source is None:
        return
    if len(source.given) != 1:
        yield f"spec.save.from: {_ONE}"
        return
    field = f"spec.save.from.{source.given[0]}"
    yield from url_problems(field, source.place, site.protocols)
    if spec.storage.url and protocol(source.place) != protocol(spec.storage.url):
        yield f"{field}: is read with the options of spec.storage; write a URL of the same protocol"


RULES: Final = OperationRules(
    problems=_problems,
    cel=(
        Rule(_FROM, f"[{', '.join(f'has(self.{field})' for field in SOURCE_FIELDS)}].exists_one(one, one)", _ONE),
        *(rule for field in SOURCE_FIELDS for rule in url_rules(_FROM, optional=True, field=field)),
        kept(_SPEC, "save"),
        Rule(_SAVE, "!has(self.adoptFrom) || self.ifExists == 'Adopt'", _ADOPTS, "adoptFrom"),
        still(_SAVE, "ifExists"),
        still(_SAVE, "adoptFrom", optional=True),
        still(_SAVE, "steps"),
        kept(_SAVE, "from"),
        *(still(_FROM, field, optional=True) for field in SOURCE_FIELDS),
        *still_selection(_FROM),
    ),
    ends_with_commit=True,
    url_use=UrlUse.WRITES,
)
