"""Requests to an object store with a condition, and whether the store honours it: each kind is tried out on a probe."""

import logging
import re
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from obstore import exceptions

from dcp_engine.errors import StaleVersion, StorageDenied, StorageFull, StorageUnavailable
from dcp_engine.format import layout
from dcp_engine.stores import guarded_obstore as obstore
from dcp_engine.stores import http_range, signed_delete
from dcp_engine.stores.http_range import Network
from dcp_engine.stores.protocol import ATOMIC, BEST_EFFORT, Guarded
from dcp_engine.stores.retry import retried
from dcp_engine.translate import translate

LOG = logging.getLogger("dcp_engine")
_CONFLICTS: Final = (exceptions.AlreadyExistsError, exceptions.PreconditionError)
_NO_CONDITIONS: Final = re.compile(
    r"\b501 Not Implemented|\b(NotImplemented|UnsupportedHeader):|\b400 Bad Request.*(?i:if-(none-)?match)", re.DOTALL
)
"""How stores say that they do not know a condition."""
_VERSIONED: Final[set[str]] = set()
"""Buckets of which this process has said that they keep versions."""
_SIGNED_SECONDS: Final = 60
_OTHER_DIGITS: Final = str.maketrans("0123456789", "1234567891")


class ConditionalRequests:
    """Makes each request once; who repeats one has to know what an answer means that got lost."""

    def __init__(self, store: Any, url: str, attempts: int, network: Network | None) -> None:  # noqa: ANN401
        self._store = store
        self._url = url
        self._attempts = attempts
        self._network = network
        """What signed requests go through; None where they can't."""
        self._bucket = "/".join(url.split("/", 3)[:3])

    def create(self, path: str, data: bytes) -> None:
        """PUT an object that must not exist; FileExistsError if it does."""
        try:
            obstore.put(self._store, path, data, mode="create")
        except _CONFLICTS as error:
            raise FileExistsError(path) from error
        except exceptions.BaseError as error:
            raise _known(error) from error

    def replace(self, path: str, data: bytes, version: Any) -> None:  # noqa: ANN401 - see Store
        """PUT over a version; StaleVersion if it is another, or gone."""
        try:
            obstore.put(self._store, path, data, mode=version)
        except (*_CONFLICTS, FileNotFoundError) as error:
            raise StaleVersion.of(path) from error
        except exceptions.BaseError as error:
            raise _known(error) from error

    def remove(self, path: str, version: dict[str, str]) -> None:
        """DELETE a version; StaleVersion if it is another. Of one that is gone some stores say that, others nothing."""
        if self._network is None or "e_tag" not in version:
            raise _NoConditionError("these requests can't be signed")
        url = str(obstore.sign(self._store, "DELETE", path, timedelta(seconds=signed_delete.SIGNED_SECONDS)))
        try:
            kept = signed_delete.delete_if_match(url, path, version["e_tag"], self._network)
        except StorageUnavailable as error:
            raise _known(error) from error
        if kept and self._bucket not in _VERSIONED:
            _VERSIONED.add(self._bucket)
            LOG.warning(
                "%s keeps versions: removed bytes stay as noncurrent versions, until a lifecycle rule with "
                "NoncurrentVersionExpiration takes them",
                self._bucket,
            )

    def told_time(self) -> datetime | None:
        """Return the date of the store's answer to a question that changes nothing; None where it gives none."""
        if self._network is None:
            return None
        try:
            url = str(obstore.sign(self._store, "HEAD", layout.METADATA, timedelta(seconds=_SIGNED_SECONDS)))
            return http_range.date_of(url, self._network)
        except Exception as error:  # noqa: BLE001 - it is asked for a guess of what would happen
            LOG.warning("%s: the store's time is not known: %s", self._url, translate(error))
            return None

    def tried_out(self, write: Guarded) -> dict[Guarded, str]:
        """Return the guard of such a change, tried out on a probe; for replacing that of creating, too."""
        return {write: self._try_removal()} if write == "remove" else self._try_writes(write)

    def forget(self, path: str) -> None:
        """Remove a probe."""
        try:
            retried(lambda: obstore.delete(self._store, [path]), self._attempts)
        except FileNotFoundError:
            return
        except Exception as error:  # noqa: BLE001 - what was asked is known; `clean` removes it later
            LOG.warning("%s/%s could not be removed: %s", self._url, path, translate(error))

    def _try_writes(self, write: Guarded) -> dict[Guarded, str]:
        """Find out what the store refuses: that an object is made a second time and, if asked, replaced by mistake."""
        path = f"data-probe-{uuid.uuid4().hex}/probe"

        def refuses(put: Callable[[], None]) -> bool:
            try:
                retried(put, self._attempts)
            except (FileExistsError, StaleVersion):
                return True
            except _NoConditionError as error:
                LOG.warning("%s: two savers at the same moment may both succeed: %s", self._url, error)
                return False
            LOG.warning("%s: two savers at the same moment may both succeed: the store ignores conditions", self._url)
            return False

        try:
            made = self._put_probe(path)
            found: dict[Guarded, bool] = {"create": refuses(lambda: self.create(path, b""))}
            if write == "replace":
                found["replace"] = refuses(lambda: self.replace(path, b"", _other(made)))
        finally:
            self.forget(path)
        return {one: ATOMIC if atomic else BEST_EFFORT for one, atomic in found.items()}

    def _try_removal(self) -> str:
        """Find out whether the store refuses to remove another version, and removes the right one."""
        path = f"data-probe-{uuid.uuid4().hex}/probe"
        try:
            made = self._put_probe(path)
            try:
                retried(lambda: self.remove(path, _other(made)), self._attempts)
                fault = "the store ignores conditions"
            except StaleVersion:
                retried(lambda: self.remove(path, made), self._attempts)
                return ATOMIC
        except StaleVersion:
            fault = "the store refuses to remove any version"
        except Exception as error:
            known = translate(error)
            # A removal is to work on a full disk, and where nothing may be written.
            if not isinstance(error, _NoConditionError) and not isinstance(known, StorageDenied | StorageFull):
                raise
            fault = str(known)
        finally:
            self.forget(path)
        LOG.warning("%s: what replaces a checkpoint while it is removed may be removed with it: %s", self._url, fault)
        return BEST_EFFORT

    def _put_probe(self, path: str) -> dict[str, str]:
        return version_of(retried(lambda: obstore.put(self._store, path, b"", mode="overwrite"), self._attempts))


class _NoConditionError(Exception):
    """The store does not know a condition that a request has."""


def version_of(meta: Any) -> dict[str, str]:  # noqa: ANN401 - obstore's own type is not public
    """Return what tells one version of an object from another."""
    return {key: value for key in ("e_tag", "version") if (value := meta.get(key))}


def _other(version: dict[str, str]) -> dict[str, str]:
    return {key: value.translate(_OTHER_DIGITS) for key, value in version.items()}


def _known(error: Exception) -> Exception:
    return _NoConditionError(str(translate(error))) if _NO_CONDITIONS.search(str(error)) else error
