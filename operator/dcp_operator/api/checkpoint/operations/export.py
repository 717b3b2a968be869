"""An Export: what it reads and makes of it, and that it takes turns with others that write to its URL."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from dcp_contract.operations import ExportFields, OperationMembers
from dcp_operator.api.checkpoint.cel import Rule, kept, still, still_list, url_rules
from dcp_operator.api.checkpoint.operations import OperationRules, UrlUse
from dcp_operator.api.checkpoint.spec import CheckpointSpec, DeletionPolicy
from dcp_operator.api.site import Site
from dcp_operator.api.storage_url import normal, protocol, url_problems

_SPEC: Final = ("spec",)
_EXPORT: Final = (*_SPEC, "export")
_FROM: Final = (*_EXPORT, "from")
_RETAIN: Final = "an export is no checkpoint, and a removal takes nothing else; write Retain"
_STARS: Final = "has more stars than its glob; write at most as many"
_SECOND: Final = "the second run of the series would find the model of the first; write Replace"
_FILE: Final = "names no file; write a path in the pod, such as /config/config.json, or a URL"


def _problems(spec: CheckpointSpec, site: Site) -> Iterator[str]:
    fields = spec.export
    if fields is None:
        yield "spec.export: is missing; write export: {from: {url: s3://bucket/run/step-1000}}"
        return
    source = fields.from_.url
    yield from url_problems("spec.export.from.url", source, site.protocols)
    if spec.storage.url and protocol(source) != protocol(spec.storage.url):
        yield "spec.export.from.url: is read with the options of spec.storage; write a URL of the same protocol"
    if normal(source) == normal(spec.storage.url):
        yield "spec.export.from.url: is spec.storage.url, where the export goes; write another one"
    yield from _key_problems(fields)
    yield from _config_problems(fields, spec.storage.url, site)
    if spec.deletion_policy is DeletionPolicy.DELETE:
        yield f"spec.deletionPolicy: {_RETAIN}"


def _key_problems(fields: ExportFields) -> Iterator[str]:
    for number, rule in enumerate(fields.keys):
        if rule.name.count("*") > rule.glob.count("*"):
            yield f"spec.export.keys.{number}.name: {_STARS}"
    for glob, count in Counter(rule.glob for rule in fields.keys).items():
        if count > 1:
            yield f"spec.export.keys: has the glob {glob!r} twice, and the first one counts; write it once"


def _config_problems(fields: ExportFields, url: str, site: Site) -> Iterator[str]:
    for number, file in enumerate(fields.config_files):
        field = f"spec.export.configFiles.{number}"
        if file.endswith("/"):
            yield f"{field}: {_FILE}"
        elif not file.startswith("/"):
            yield from url_problems(field, file, site.protocols)
            if url and protocol(file) not in {"", protocol(url)}:
                yield f"{field}: is read with the options of spec.storage; write a path, or a URL of the same protocol"


def _repeated(spec: OperationMembers) -> Iterator[str]:
    if spec.export is not None and not spec.export.overwrites:
        yield f"export.ifExists: {_SECOND}"


RULES: Final = OperationRules(
    problems=_problems,
    repeated=_repeated,
    repeated_cel=(Rule(_EXPORT, "self.ifExists == 'Replace'", _SECOND, "ifExists"),),
    cel=(
        *url_rules(_FROM),
        kept(_SPEC, "export"),
        Rule(_SPEC, "self.operation != 'Export' || self.deletionPolicy == 'Retain'", _RETAIN, "deletionPolicy"),
        Rule(
            _EXPORT,
            "!has(self.configFiles) || self.configFiles.all(each, each.matches('^(/|[a-z][a-z0-9]*://).*[^/]$'))",
            _FILE,
            "configFiles",
        ),
        *(still(_EXPORT, field) for field in ("format", "shardBytes", "ifExists")),
        still(_EXPORT, "dtype", optional=True),
        *(still_list(_EXPORT, field) for field in ("include", "keys", "configFiles")),
        still(_FROM, "url"),
    ),
    url_use=UrlUse.WRITES,
)
