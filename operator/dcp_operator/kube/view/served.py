"""The objects that the operator serves, by key: live ones parsed, finished ones packed.

A body is kept without what nobody here reads, of which there may be a megabyte.
"""

import json
import logging
import zlib
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from dcp_operator.api.bounds import TOO_DEEP, TOO_LARGE, WRITABLE, deeper, head, larger
from dcp_operator.api.checkpoint.in_store import KEY as IN_STORE
from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.naming import GROUP, KUEUE
from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import Site
from dcp_operator.kube.client.api import ObjectKey
from dcp_operator.kube.client.ownership import kept_owners
from dcp_operator.kube.kinds.kind import AnyKind, Kinds
from dcp_operator.kube.view.owned import OwnedObjects

logger = logging.getLogger(__name__)

_METADATA: Final = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
_READ: Final = (f"{GROUP}/", f"{KUEUE}/")
_FINDING: Final = "unkept"
"""Where a kept body says in what its spec goes beyond its bounds; empty where the spec is kept whole."""
_DEEP: Final = "deep"
_LARGE: Final = "large"


class _Packed(NamedTuple):
    """A finished object: ten thousand of them have to fit beside the few that are live."""

    uid: str
    version: int
    data: bytes
    seen: bool
    """Whether the status is about the present spec."""


@dataclass(slots=True)
class _Live:
    """An object that is not finished."""

    uid: str
    version: int
    body: Body
    parsed: Any = None
    """As its kind parses it, or the SpecError that says what is wrong with it."""
    accepted: Hashable = None
    """Of what it was parsed, if that was accepted as it is: it stays so until something else is to be parsed."""
    current: bool = False
    """Whether it was parsed of this body."""


@dataclass
class ServedObjects:
    """The served objects that are here.

    Args:
        kinds: What is served.
        site: What a spec may say here.
        owned: What the objects own.
    """

    kinds: Kinds
    site: Site
    owned: OwnedObjects
    _entries: dict[ObjectKey, _Packed | _Live] = field(default_factory=dict)

    def put(self, key: ObjectKey, body: Body) -> bool:
        """Keep a body; return whether it is news. Versions grow over all objects of a kind, whatever their uids."""
        kind, metadata, before = self.kinds.served[key.kind], body["metadata"], self._entries.get(key)
        version = int(metadata["resourceVersion"])
        if before is not None and version <= before.version:
            return False
        self._keep(kind, key, version, _kept(kind, body))
        return True

    def replace(self, key: ObjectKey, body: Body) -> None:
        """Keep a kept body whose storage was resolved anew: its version is the one that is here."""
        self._keep(self.kinds.served[key.kind], key, self._entries[key].version, body)

    def _keep(self, kind: AnyKind, key: ObjectKey, version: int, entry: Body) -> None:
        before, uid = self._entries.get(key), entry["metadata"]["uid"]
        if kind.is_finished(entry["status"]):
            self._entries[key] = _packed(uid, version, entry)
        else:
            known = (before.parsed, before.accepted) if isinstance(before, _Live) else ()
            self._entries[key] = _Live(uid, version, entry, *known)

    def remove(self, key: ObjectKey, uid: str) -> bool:
        """Forget an object; return whether it was here."""
        if self.uid(key) != uid:
            return False
        del self._entries[key]
        return True

    def body(self, key: ObjectKey) -> Body | None:
        """Return the body that is kept; not to be changed. None if the object is not here."""
        entry = self._entries.get(key)
        return None if entry is None else _body(entry)

    def parsed(self, key: ObjectKey, body: ReadBody | None = None) -> Any:  # noqa: ANN401 - of the kind's own type, or a SpecError
        """Return an object as its kind parses it, or the SpecError that says what is wrong with it.

        A live object is parsed once per change of what its parser reads. A finished one is parsed anew for each call,
        since hardly anybody asks.

        Args:
            key: Which object.
            body: What `body` returned, where that was asked already: to unpack a finished object takes a while.

        Raises:
            KeyError: It is not here.
        """
        kind, entry = self.kinds.served[key.kind], self._entries[key]
        if isinstance(entry, _Live):
            self._parse_news(kind, key, entry)
            found, body = entry.parsed, entry.body
        else:
            body = _body(entry) if body is None else body
            found, _ = self._judged(kind, key, body)
        if not isinstance(found, SpecError) or kind.has_begun(body, None):
            return found
        observed = kind.observe(self.owned.of(key, entry.uid))
        # An attempt that no status tells of yet: the operator ended between two writes.
        return self._parse(kind, key, body, begun=True) if kind.has_begun(body, observed) else found

    def _parse_news(self, kind: AnyKind, key: ObjectKey, entry: _Live) -> None:
        if entry.current:
            return
        source = _source(entry.body)
        if entry.accepted != source:
            entry.parsed, accepted = self._judged(kind, key, entry.body)
            entry.accepted = source if accepted else None
        entry.current = True

    def _judged(self, kind: AnyKind, key: ObjectKey, body: ReadBody) -> tuple[Any, bool]:
        """Return a body parsed, or what is wrong with it; and whether it is accepted though nothing was made of it."""
        found = self._parse(kind, key, body, begun=False)
        if not isinstance(found, SpecError):
            return found, True
        return (self._parse(kind, key, body, begun=True) if kind.has_begun(body, None) else found), False

    def _parse(self, kind: AnyKind, key: ObjectKey, body: ReadBody, *, begun: bool) -> Any:  # noqa: ANN401 - as `parsed`
        """Parse a kept body, as one of which an attempt was made or not."""
        if (problem := _unkept(body)) is not None:
            return problem
        try:
            return kind.parse(body, self.site, begun)
        except SpecError as error:
            if error.__cause__ is not None:
                logger.exception("%s: the spec can't be read", key)
            return error

    def at_rest(self, key: ObjectKey) -> bool:
        """Return whether an object is finished, and nothing was asked of it since."""
        entry = self._entries.get(key)
        return isinstance(entry, _Packed) and entry.seen

    def uid(self, key: ObjectKey) -> str:
        """Return the uid of an object; empty if it is not here."""
        entry = self._entries.get(key)
        return entry.uid if entry is not None else ""

    def version(self, key: ObjectKey) -> int:
        """Return the version of an object; 0 if it is not here."""
        entry = self._entries.get(key)
        return entry.version if entry is not None else 0

    def here(self) -> list[ObjectKey]:
        """Return every object that is here."""
        return list(self._entries)

    def known(self, kind: str) -> Iterator[tuple[str, str, str, int]]:
        """Yield (namespace, name, uid, version) of every object of a kind, as of now."""
        for key, entry in list(self._entries.items()):
            if key.kind == kind:
                yield key.namespace, key.name, entry.uid, entry.version

    def count(self, kind: str) -> int:
        """Return how many objects of a kind are here."""
        return sum(key.kind == kind for key in self._entries)


def _source(body: ReadBody) -> Hashable:
    """Return what a parser reads of a body: it is parsed anew when this changes."""
    metadata = body["metadata"]
    labels = tuple((metadata.get("labels") or {}).items())
    store = json.dumps([body[IN_STORE], body["spec"].get("storage")], sort_keys=True) if IN_STORE in body else ""
    return metadata["uid"], metadata.get("generation"), metadata.get("deletionTimestamp"), labels, store


def _kept(kind: AnyKind, body: Body) -> Body:
    """Return what is kept of a body. Its spec is judged by its bounds here, once per change, and nowhere else.

    Left out are labels, annotations, finalizers and owners of other people, managed fields, and a spec that goes beyond
    its bounds. The controller stays: by it an index tells whose run it is, also of a kept body that is looked up again.
    """
    metadata = body["metadata"]
    made: Body = {"metadata": {key: metadata[key] for key in _METADATA if key in metadata}}
    for name in ("labels", "annotations"):
        if said := metadata.get(name):
            made["metadata"][name] = {key: value for key, value in said.items() if key.startswith(_READ)}
    if finalizers := [each for each in metadata.get("finalizers") or () if each.startswith(_READ)]:
        made["metadata"]["finalizers"] = finalizers
    made["metadata"] |= kept_owners(body)
    spec, finding = body.get("spec") or {}, _finding(kind, body)
    made |= {"spec": head(spec) if finding else spec, "status": body.get("status") or {}, _FINDING: finding}
    return made | ({IN_STORE: body[IN_STORE]} if IN_STORE in body else {})


def _unkept(body: ReadBody) -> SpecError | None:
    """Return what is wrong with a kept body whose spec is not kept; None where it is."""
    finding = body.get(_FINDING)
    if not finding:
        return None
    return SpecError([f"spec: {TOO_DEEP}"], writable=False) if finding == _DEEP else SpecError([TOO_LARGE])


def _finding(kind: AnyKind, body: ReadBody) -> str:
    if _FINDING in body:
        # Our own write: the spec is the one that was judged.
        return str(body[_FINDING])
    spec = body.get("spec") or {}
    if deeper(spec, WRITABLE):
        return _DEEP
    # What has begun was accepted once, and is never judged again.
    return _LARGE if larger(spec) and not kind.has_begun(body, None) else ""


def _packed(uid: str, version: int, body: Body) -> _Packed:
    text = json.dumps(body, separators=(",", ":")).encode()
    seen = body["status"].get("observedGeneration") == body["metadata"].get("generation")
    return _Packed(uid, version, zlib.compress(text, 1), seen)


def _body(entry: _Packed | _Live) -> Body:
    if isinstance(entry, _Live):
        return entry.body
    body: Body = json.loads(zlib.decompress(entry.data))
    return body
