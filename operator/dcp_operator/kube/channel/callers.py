"""Who calls: a pod, by the token that the kubelet gave it.

The token is bound to the pod and made for the operator alone (its audience), so that neither a token for the API server
nor one of another service is worth anything here, and what the operator gets can't be used elsewhere. The API server
says whose it is (TokenReview). A token stays good for some seconds after its pod is gone, so what is told to a pod, or
taken from it, is told and taken while a pod of that very uid is there: `alive`.
"""

import asyncio
import base64
import binascii
import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from dcp_contract.training import AUDIENCE
from dcp_operator.api.json_types import ReadBody
from dcp_operator.kube.client.api import PODS, ApiError, GoneError, RefusedError
from dcp_operator.kube.client.cluster import Cluster

KNOWN_SECONDS: Final = 120.0
"""For how long the API server's word on a token counts."""
MOST_KNOWN: Final = 5000
MOST_REVIEWS: Final = 16
"""Tokens that are reviewed at once."""
TOKEN_BYTES: Final = 8192
ALIVE_SECONDS: Final = 1.0
"""For how long the sight of a pod counts."""
SEEN_SECONDS: Final = 600.0
"""For how long it counts where the agent reports nothing: its labels hardly change, and of a pod that is gone the API
server reviews no token any more."""
MOST_LABELS: Final = 100
"""A pod with more labels counts as one without: they are kept for each caller."""
_PREFIX: Final = "system:serviceaccount:"
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_ENDED: Final = frozenset({"Succeeded", "Failed"})


class Caller(NamedTuple):
    """The pod that a token is bound to."""

    namespace: str
    pod: str
    uid: str

    def __str__(self) -> str:
        return f"pod {self.namespace}/{self.pod}"


class SeenPod(NamedTuple):
    """What is seen of a caller's pod."""

    grace: int | None
    """How many seconds it has to end, if it says so."""
    labels: Mapping[str, str]


class RefusedCallError(Exception):
    """A call that is not answered; it says so in one line.

    Args:
        status: The HTTP status.
        line: What is wrong, and what to do.
        after: Seconds after which to come again, where that helps.
    """

    def __init__(self, status: HTTPStatus, line: str, after: float | None = None) -> None:
        super().__init__(line)
        # It quotes who called, and goes into a log.
        self.line = "".join(each if each.isprintable() else "?" for each in line)
        self.status, self.after = status, after


def caller_of(review: ReadBody) -> Caller | None:
    """Return the pod that the status of a TokenReview speaks of; None where the token is good for nobody here."""
    user = review.get("user") or {}
    extra = user.get("extra") or {}
    name, uid = _only(extra, _POD_NAME), _only(extra, _POD_UID)
    namespace = str(user.get("username", "")).removeprefix(_PREFIX).partition(":")[0]
    of_account = str(user.get("username", "")).startswith(_PREFIX)
    meant = review.get("authenticated") is True and AUDIENCE in (review.get("audiences") or ())
    return Caller(namespace, name, uid) if meant and of_account and namespace and name and uid else None


def _only(extra: Mapping[str, Any], name: str) -> str:
    values = extra.get(name) or [""]
    return str(values[0]) if len(values) == 1 else ""


def looks_meant(token: str) -> bool:
    """Return whether a token says that it is for the operator: what says otherwise costs the API server nothing."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > TOKEN_BYTES or not token.isascii():  # noqa: PLR2004 - the parts of a JWT
        return False
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return False
    audience = claims.get("aud") if isinstance(claims, dict) else None
    return AUDIENCE in (audience if isinstance(audience, list) else [audience])


@dataclass
class Callers:
    """Tells who calls.

    Args:
        cluster: Whom to ask.
    """

    cluster: Cluster
    _known: OrderedDict[bytes, tuple[float, Caller]] = field(default_factory=OrderedDict, init=False)
    """By the token's digest: the token itself is not kept."""
    _seen: OrderedDict[Caller, tuple[float, SeenPod]] = field(default_factory=OrderedDict, init=False)
    _reviews: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_REVIEWS), init=False)

    async def allowed(self) -> bool:
        """Return whether the operator may review tokens: an install in one namespace mostly may not."""
        try:
            await self.cluster.review_token("-", AUDIENCE)
        except RefusedError as error:
            return error.status != HTTPStatus.FORBIDDEN
        except ApiError:
            return True
        return True

    def was_good(self, authorization: str) -> bool:
        """Return whether the token of an Authorization header was a pod's when it was reviewed last."""
        return _digest(authorization.partition(" ")[2]) in self._known

    async def of(self, authorization: str) -> Caller:
        """Return the pod whose token stands in an Authorization header.

        Raises:
            RefusedCallError: It is nobody's.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise RefusedCallError(HTTPStatus.UNAUTHORIZED, "no token; send the pod's token as Authorization: Bearer")
        digest, now = _digest(token), asyncio.get_running_loop().time()
        known = self._known.get(digest)
        if known is not None and now < known[0] + KNOWN_SECONDS:
            return known[1]
        if not looks_meant(token):
            line = f"the token is not for {AUDIENCE}; mount one with that audience"
            raise RefusedCallError(HTTPStatus.UNAUTHORIZED, line)
        async with self._reviews:
            try:
                review = await self.cluster.review_token(token, AUDIENCE)
            except ApiError as error:
                raise _later(f"the API server does not review tokens now: {error}") from error
        caller = caller_of(review)
        if caller is None:
            self._known.pop(digest, None)
            raise RefusedCallError(HTTPStatus.UNAUTHORIZED, "the API server does not know the token as a pod's")
        _keep(self._known, digest, (now, caller))
        return caller

    async def alive(self, caller: Caller, *, now: bool = True) -> SeenPod:
        """Return what is seen of the caller's pod. It is there, and it runs.

        Args:
            caller: Whose pod.
            now: Whether it has to be there now; else it is enough that it was there not long ago.

        Raises:
            RefusedCallError: It is gone, has ended, or is another one by now.
        """
        time = asyncio.get_running_loop().time()
        seen = self._seen.get(caller)
        if seen is not None and time < seen[0] + (ALIVE_SECONDS if now else SEEN_SECONDS):
            return seen[1]
        try:
            pod = await self.cluster.get(PODS, caller.namespace, caller.pod)
        except GoneError:
            pod = {"metadata": {}}
        except ApiError as error:
            raise _later(f"the API server does not tell of the pod now: {error}") from error
        ended = (pod.get("status") or {}).get("phase") in _ENDED
        if pod["metadata"].get("uid") != caller.uid or ended:
            self._seen.pop(caller, None)
            raise RefusedCallError(HTTPStatus.FORBIDDEN, f"{caller} with the token's uid does not run any more")
        grace = (pod.get("spec") or {}).get("terminationGracePeriodSeconds")
        labels = pod["metadata"].get("labels") or {}
        found = SeenPod(grace if isinstance(grace, int) else None, labels if len(labels) <= MOST_LABELS else {})
        _keep(self._seen, caller, (time, found))
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()


def _later(line: str) -> RefusedCallError:
    return RefusedCallError(HTTPStatus.SERVICE_UNAVAILABLE, line, 5.0)


def _keep(store: OrderedDict[Any, Any], key: object, value: object) -> None:
    store[key] = value
    store.move_to_end(key)
    if len(store) > MOST_KNOWN:
        store.popitem(last=False)
