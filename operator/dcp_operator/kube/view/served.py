"""The objects that the operator serves, by key: live ones parsed, finished ones packed."""

import json
import logging
import zlib
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dcp_operator.api.checkpoint.parsing import SpecError
from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.site import CLUSTER, Site
from dcp_operator.kube.client.api import ObjectKey
from dcp_operator.kube.kinds.kind import Kind
from dcp_operator.kube.view.kept_body import kept, unkept

logger = logging.getLogger(__name__)


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
    parsed: tuple[Hashable, Any] | None = None
    """What was parsed, and what it was parsed of."""
    current: bool = False
    """Whether that was this body."""


@dataclass
class ServedObjects:
    """The served objects that are here.

    Args:
        site: What a spec may say here.
    """

    site: Site = CLUSTER
    _entries: dict[ObjectKey, _Packed | _Live] = field(default_factory=dict)

    def put(self, kind: Kind, key: ObjectKey, body: Body) -> bool:
        """Keep a body; return whether it is news. Versions grow over all objects of a kind, whatever their uids."""
        metadata, before = body["metadata"], self._entries.get(key)
        version = int(metadata["resourceVersion"])
        if before is not None and version <= before.version:
            return False
        entry = kept(kind, body)
        if kind.is_finished(entry["status"]):
            self._entries[key] = _packed(metadata["uid"], version, entry)
        else:
            parsed = before.parsed if isinstance(before, _Live) else None
            self._entries[key] = _Live(metadata["uid"], version, entry, parsed)
        return True

    def remove(self, key: ObjectKey, uid: str) -> bool:
        """Forget an object; return whether it was here."""
        if self.uid(key) != uid:
            return False
        del self._entries[key]
        return True

    def body(self, key: ObjectKey) -> Body | None:
        """Return the body that is kept; not to be changed."""
        entry = self._entries.get(key)
        return None if entry is None else _body(entry)

    def parsed(self, kind: Kind, key: ObjectKey, body: ReadBody | None = None) -> Any:  # noqa: ANN401 - of the kind's own type, or a SpecError
        """Return the parsed object, or the SpecError that says what is wrong with it.

        A live object is parsed once per change of what its parser reads. A finished one is parsed anew for each call,
        since hardly anybody asks.

        Args:
            kind: The object's.
            key: Which object.
            body: What `body` returned, where that was asked already: to unpack a finished object takes a while.

        Raises:
            KeyError: It is not here.
        """
        entry = self._entries[key]
        if isinstance(entry, _Packed):
            body = _body(entry) if body is None else body
            return self.parse(kind, key, body, begun=kind.has_begun(body, None))
        if not entry.current:
            begun = kind.has_begun(entry.body, None)
            source = _source(entry.body, begun=begun)
            if entry.parsed is None or entry.parsed[0] != source:
                entry.parsed = source, self.parse(kind, key, entry.body, begun=begun)
            entry.current = True
        assert entry.parsed is not None  # noqa: S101 - set above
        return entry.parsed[1]

    def parse(self, kind: Kind, key: ObjectKey, body: ReadBody, *, begun: bool) -> Any:  # noqa: ANN401 - as `parsed`
        """Parse a kept body, as one of which an attempt was made or not."""
        if (problem := unkept(body)) is not None:
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

    def keys(self) -> list[ObjectKey]:
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


def _source(body: ReadBody, *, begun: bool) -> Hashable:
    """Return what a parser reads of a body: it is parsed anew when this changes."""
    metadata = body["metadata"]
    labels = tuple((metadata.get("labels") or {}).items())
    return metadata["uid"], metadata.get("generation"), metadata.get("deletionTimestamp"), labels, begun


def _packed(uid: str, version: int, body: Body) -> _Packed:
    text = json.dumps(body, separators=(",", ":")).encode()
    seen = body["status"].get("observedGeneration") == body["metadata"].get("generation")
    return _Packed(uid, version, zlib.compress(text, 1), seen)


def _body(entry: _Packed | _Live) -> Body:
    if isinstance(entry, _Live):
        return entry.body
    body: Body = json.loads(zlib.decompress(entry.data))
    return body
