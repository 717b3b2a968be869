"""Manifest files as kubectl reads them: YAML or JSON, many documents in one file, folders, standard input.

What is wrong with a file is said in one line that names file and document; all of it is said at once.
"""

import base64
import binascii
import contextlib
import json
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from dcp_contract.environment import CA_ENV, CA_KEY
from dcp_contract.storage_options import CREDENTIAL_KEYS
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.naming import API_VERSION, GROUP, KIND, NAME_LIMIT, SERIES_KIND, STORE_KIND
from dcp_operator.api.pod.fields import unknown_fields, wrong_types
from dcp_operator.api.problems import SpecError
from dcp_operator.api.series.parsing import parse as parse_series
from dcp_operator.api.series.spec import Series
from dcp_operator.api.site import Site
from dcp_operator.api.storage_url import protocol
from dcp_operator.local.stores import ManifestStores, unresolved

SUFFIXES: Final = (".yaml", ".yml", ".json")
STDIN: Final = "-"
_PREFIX: Final = re.compile(r"[a-z0-9][-a-z0-9]*")
_PREFIX_LIMIT: Final = NAME_LIMIT - 5
_LETTERS: Final = "bcdfghjklmnpqrstvwxz2456789"
"""An API server's own, which make no words."""


class InputError(Exception):
    """Files that can't be run. `problems` holds one line for each; its caller prints them and exits with 2."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Document:
    """One object of a file; `place` is what an error line starts with."""

    place: str
    folder: Path
    body: Mapping[str, Any]


@dataclass(frozen=True)
class ManifestCheckpoint:
    """One Checkpoint of a file, as written and as parsed."""

    place: str
    folder: Path
    """Where the file lies; the current folder for standard input."""
    body: Mapping[str, Any]
    checkpoint: Checkpoint
    generated: bool = False
    """Whether the file has a generateName alone, and the name was made up here."""

    @property
    def title(self) -> str:
        """What to call it when nothing of it has run."""
        return f"{self.body['metadata']['generateName']}..." if self.generated else self.checkpoint.name


@dataclass(frozen=True)
class ManifestSeries:
    """One CheckpointSeries of a file, as parsed."""

    place: str
    series: Series


@dataclass
class Documents:
    """What the files hold that matters here: Checkpoints and series in order, and Secrets by namespace and name."""

    checkpoints: list[ManifestCheckpoint] = field(default_factory=list)
    series: list[ManifestSeries] = field(default_factory=list)
    secrets: dict[tuple[str, str], Mapping[str, str]] = field(default_factory=dict, repr=False)
    stores: ManifestStores = field(default_factory=ManifestStores)
    notes: list[str] = field(default_factory=list)
    """One line for each document that is left out."""


def read(files: Iterable[str], site: Site) -> Documents:
    """Return what the files hold, checked for `site`; raise InputError with every problem of every file."""
    found = Documents()
    problems: list[str] = []
    names: dict[tuple[str, str, str], str] = {}
    there = list(_all_documents(files))
    for document in there:
        # What names a store may stand before it.
        if isinstance(document, Document) and document.body.get("kind") == STORE_KIND:
            with contextlib.suppress(SpecError):
                found.stores.add(document.body, site)
    for document in there:
        try:
            if isinstance(document, InputError):
                raise document
            _sort(document, site, found, names)
        except InputError as error:
            place = f"{document.place}: " if isinstance(document, Document) else ""
            problems += [f"{place}{problem}" for problem in error.problems]
    of_stores = any(kind == STORE_KIND for kind, *_ in names)
    if not problems and not found.checkpoints and not found.series and not of_stores:
        problems.append(f"no Checkpoint in {', '.join(files)}")
    if problems:
        raise InputError(problems)
    return found


def _all_documents(files: Iterable[str]) -> Iterator["Document | InputError"]:
    """Yield the objects of all files, and in the place of a file that can't be read what is wrong with it."""
    for file in files:
        try:
            yield from _documents(file)
        except InputError as error:
            yield error


def _sort(document: Document, site: Site, found: Documents, names: dict[tuple[str, str, str], str]) -> None:
    body = document.body
    kind, version = body.get("kind"), body.get("apiVersion")
    if not isinstance(kind, str) or not isinstance(version, str):
        raise InputError(["not a Kubernetes object: apiVersion and kind must be set"])
    if (version, kind) == ("v1", "Secret"):
        found.secrets[_name(body)] = _secret(body)
    elif (version, kind) == (API_VERSION, SERIES_KIND):
        _sort_series(document, site, found, names)
    elif (version, kind) == (API_VERSION, STORE_KIND):
        try:
            found.stores.add(body, site)
        except SpecError as error:
            raise InputError(error.problems) from error
        _once(document, body, names)
    elif kind == KIND or version.partition("/")[0] == GROUP:
        if (version, kind) != (API_VERSION, KIND):
            raise InputError([f"apiVersion {version}, kind {kind} is not known; write {API_VERSION}, {KIND}"])
        body = _named(body)
        generated = body is not document.body
        try:
            checkpoint = parse(found.stores.resolved(body), site=site)
        except SpecError as error:
            raise InputError(error.problems) from error
        _look_for_store(document, checkpoint, site, found)
        template = checkpoint.spec.workers.pod_template
        if wrong := [*unknown_fields(template), *wrong_types(template)]:
            raise InputError(wrong)
        _once(document, body, names)
        found.checkpoints.append(
            ManifestCheckpoint(document.place, document.folder, body, checkpoint, generated=generated)
        )
    else:
        found.notes.append(f"{document.place}: {kind} left out, only {KIND} and Secret are used here")


def _look_for_store(document: Document, checkpoint: Checkpoint, site: Site, found: Documents) -> None:
    """Say where no file holds the store that a Checkpoint names. In a cluster it may stand already."""
    if not (problem := unresolved(checkpoint.store)):
        return
    if not site.has_trainings:
        raise InputError([problem])
    found.notes.append(f"{document.place}: {problem.partition(';')[0]}; what it comes to is not checked")


def _sort_series(document: Document, site: Site, found: Documents, names: dict[tuple[str, str, str], str]) -> None:
    try:
        series = parse_series(found.stores.resolved(document.body), site=site)
    except SpecError as error:
        raise InputError(error.problems) from error
    template = series.spec.template.spec.workers.pod_template
    if wrong := [*unknown_fields(template), *wrong_types(template)]:
        raise InputError(line.replace("spec.", "spec.template.spec.", 1) for line in wrong)
    _once(document, document.body, names)
    found.series.append(ManifestSeries(document.place, series))


def _once(document: Document, body: Mapping[str, Any], names: dict[tuple[str, str, str], str]) -> None:
    """Note an object's name; raise InputError where an earlier one of the kind has it."""
    kind, name = str(body["kind"]), _name(body)
    first = names.setdefault((kind, *name), document.place)
    if first != document.place:
        raise InputError([f"{kind} {'/'.join(name)} stands in {first} already; give it another name"])


def _named(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an object with a name, made of its generateName as an API server does where it has no other."""
    metadata = body.get("metadata")
    if not isinstance(metadata, Mapping) or metadata.get("name"):
        return body
    prefix = metadata.get("generateName")
    if not isinstance(prefix, str) or not prefix:
        return body
    if not _PREFIX.fullmatch(prefix):
        raise InputError(["metadata.generateName: begins a label; write a-z, 0-9 and '-', with no '-' in front"])
    name = prefix[:_PREFIX_LIMIT] + "".join(secrets.choice(_LETTERS) for _ in range(NAME_LIMIT - _PREFIX_LIMIT))
    return {**body, "metadata": {**metadata, "name": name}}


def _name(body: Mapping[str, Any]) -> tuple[str, str]:
    metadata = body.get("metadata")
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str):
        raise InputError(["metadata.name must be set"])
    return str(metadata.get("namespace") or "default"), metadata["name"]


def _secret(body: Mapping[str, Any]) -> Mapping[str, str]:
    """Return a Secret's values; what is wrong with one is said without the value."""
    values: dict[str, str] = {}
    for section in ("data", "stringData"):
        entries = body.get(section) or {}
        if not isinstance(entries, Mapping):
            raise InputError([f"{section} must be a mapping of strings"])
        for key, value in entries.items():
            if not isinstance(value, str):
                raise InputError([f"{section}.{key} must be a string"])
            try:
                values[key] = base64.b64decode(value, validate=True).decode() if section == "data" else value
            except (binascii.Error, UnicodeDecodeError) as error:
                raise InputError([f"data.{key} must be base64 of UTF-8 text; stringData takes it as it is"]) from error
    return values


def credentials(checkpoint: Checkpoint, known: Mapping[tuple[str, str], Mapping[str, str]]) -> dict[str, str] | None:
    """Return the environment variables that the Checkpoint's Secret stands for, or None where no file holds it."""
    reference = checkpoint.spec.storage.credentials_secret_ref
    secret = known.get((checkpoint.namespace, reference.name)) if reference is not None else None
    if secret is None:
        return None
    keys = CREDENTIAL_KEYS[protocol(checkpoint.spec.storage.url)]
    names = dict(zip(keys, keys, strict=True)) | ({CA_ENV: CA_KEY} if keys else {})
    return {name: secret[key] for name, key in names.items() if key in secret}


def authorities(checkpoint: Checkpoint, known: Mapping[tuple[str, str], Mapping[str, str]]) -> dict[str, str]:
    """Return the environment variable that the Checkpoint's own Secret of authorities stands for."""
    reference = checkpoint.spec.storage.ca_secret_ref
    secret = known.get((checkpoint.namespace, reference.name)) if reference is not None else None
    return {CA_ENV: secret[CA_KEY]} if secret is not None and CA_KEY in secret else {}


def _documents(file: str) -> Iterator[Document]:
    """Yield the objects of a file, of a folder's files, or of standard input, Lists taken apart."""
    path = Path(file)
    if file != STDIN and path.is_dir():
        inside = sorted(entry for entry in path.iterdir() if entry.suffix in SUFFIXES)
        if not inside:
            raise InputError([f"{file}: no {', '.join(SUFFIXES)} file in this folder"])
        for entry in inside:
            yield from _documents(str(entry))
        return
    name = "standard input" if file == STDIN else file
    folder = Path.cwd() if file == STDIN else path.absolute().parent
    for number, body in enumerate(_load(name, _text(file, name)), start=1):
        if body is None:
            continue
        place = f"{name}, document {number}"
        if not isinstance(body, dict):
            raise InputError([f"{place}: not a Kubernetes object but a {type(body).__name__}"])
        items = body.get("items") if body.get("kind") == "List" else None
        if isinstance(items, list):
            for index, item in enumerate(items, start=1):
                inner = item if isinstance(item, dict) else {}
                yield Document(f"{place}, item {index}", folder, inner)
        else:
            yield Document(place, folder, body)


def _text(file: str, name: str) -> str:
    try:
        return sys.stdin.buffer.read().decode() if file == STDIN else Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError([f"{name}: not UTF-8 text"]) from error
    except OSError as error:
        raise InputError([f"{name}: {error.strerror or error}"]) from error


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes takes it: no key twice in a mapping, and a date is a string."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands here twice", key.start_mark)
        if isinstance(key.value, str):
            seen.add(key.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _load(name: str, text: str) -> Iterator[Any]:
    """Yield each document as JSON would hold it."""
    number = 1
    try:
        for body in yaml.load_all(text, Loader=_Loader):
            yield json.loads(json.dumps(body, allow_nan=False))
            number += 1
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError([f"{name}, document {number}{line}: {error.problem or error.context}"]) from error
    except yaml.YAMLError as error:
        raise InputError([f"{name}, document {number}: {' '.join(str(error).split())}"]) from error
    except (TypeError, ValueError) as error:
        raise InputError([f"{name}, document {number}: holds what JSON has no word for: {error}"]) from error
    except RecursionError as error:
        raise InputError([f"{name}, document {number}: nested too deeply"]) from error
