"""A deleted Checkpoint whose data go with it: its Delete is created, followed and repeated, then the finalizer goes.

What became of the data is said before the finalizer goes: an operator that ends in between says it once more, and the
API server knows that event already.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Final

from dcp_operator.api.bodies import time_of
from dcp_operator.api.checkpoint.spec import Checkpoint, DeletionPolicy
from dcp_operator.api.checkpoint.status import Status
from dcp_operator.api.checkpoint.text import counted
from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.naming import DATA_FINALIZER
from dcp_operator.api.problems import SpecError
from dcp_operator.controllers.checkpoint.observed import Observed
from dcp_operator.controllers.decision import Event
from dcp_operator.controllers.deletion.decide import (
    DeletionDecision,
    DropRemoval,
    End,
    LetGo,
    StartRemoval,
    decide_deletion,
    wait_for_others,
    wait_for_removal,
)
from dcp_operator.controllers.deletion.saved import policy_of, takes_data_along, to_remove
from dcp_operator.kube.client import metrics
from dcp_operator.kube.client.api import (
    CHECKPOINTS,
    NAMESPACES,
    ApiError,
    ConflictError,
    GoneError,
    NameTakenError,
    ObjectKey,
    RefusedError,
    Resource,
)
from dcp_operator.kube.client.ownership import Owner
from dcp_operator.kube.loop.reconcile import SOONEST, ReconcileContext
from dcp_operator.kube.view.data_removals import DataRemovals
from dcp_operator.objects.data_removal import checkpoint_of_data_removal, goes_by_other_keys, removes

logger = logging.getLogger(__name__)

_LISTED: Final = 900
"""Characters of an event for the URLs that it names."""
Write = Callable[[Body, DeletionDecision], Awaitable[Body]]
"""Writes the status of a decision if it differs, and posts its events; returns the object as it stands then."""


@dataclass
class Deletions:
    """Puts the finalizer on, and brings Checkpoints that have it to their end.

    Args:
        context: What the reconcilers of all kinds share.
        removals: Which Delete is whose.
        drop: Deletes an object by its resource, namespace, name and uid.
    """

    context: ReconcileContext
    removals: DataRemovals
    drop: Callable[[Resource, str, str, str], Awaitable[None]]
    _told: set[str] = field(default_factory=set, init=False)
    """Uids of namespaces that go, of which was told."""
    _telling: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def hold(self, key: ObjectKey, body: Body) -> Body:
        """Put the finalizer on a Checkpoint whose data are to go with it, or take it off one whose data are to stay.

        Raises:
            RefusedError: The operator may not.
        """
        held = DATA_FINALIZER in finalizers_of(body)
        if not held and policy_of(body) is not DeletionPolicy.DELETE:
            return body
        parsed: Checkpoint | SpecError = self.context.view.cache.served.parsed(key, body)
        if isinstance(parsed, SpecError) or takes_data_along(parsed.spec) is held:
            return body
        return await self._set(body, held=not held)

    async def go_on(self, key: ObjectKey, body: Body, observed: Observed, write: Write) -> float | None:
        """Do what is next for a deleted Checkpoint; return the seconds after which to look again."""
        if DATA_FINALIZER not in finalizers_of(body):
            return None
        now = self.context.now()
        parsed: Checkpoint | SpecError = self.context.view.cache.served.parsed(key, body)
        if isinstance(parsed, SpecError):
            # What can't be read was never begun.
            await self._let_go(key, body, LetGo(end=End.NOTHING))
            return None
        status, deleted = Status.read(body.get("status")), time_of(body["metadata"]["deletionTimestamp"])
        fields = to_remove(parsed, status, observed)
        removal = self.removals.of(key, parsed.uid)
        taken = removal is not None and fields is not None and not removes(removal, parsed, body, fields)
        decision = decide_deletion(parsed, status, fields, None if taken else removal, deleted, now)
        for action in decision.actions:
            if isinstance(action, StartRemoval) and removal is not None:
                refusal = f"Checkpoint {removal.name} has its name and removes something else; delete it."
                decision = wait_for_removal(parsed, status, refusal, deleted, now)
                if goes_by_other_keys(removal, parsed, body):
                    decision = replace(decision, actions=(DropRemoval(name=removal.name, uid=removal.uid),))
            elif isinstance(action, StartRemoval):
                try:
                    decision = await self._waits(key, parsed, body, action) or decision
                except GoneError as error:
                    if error.status != HTTPStatus.FORBIDDEN:
                        raise
                    # That is how the API server says that the namespace is being deleted.
                    await self._tell_of_namespace(key.namespace)
                    await self._let_go(key, body, LetGo(end=End.NAMESPACE))
                    return None
        return await self._act(key, body, decision, write)

    async def _act(self, key: ObjectKey, body: Body, decision: DeletionDecision, write: Write) -> float | None:
        if not any(isinstance(action, LetGo) for action in decision.actions):
            await write(body, decision)
        for action in decision.actions:
            if isinstance(action, LetGo):
                await self._let_go(key, body, action)
            elif isinstance(action, DropRemoval):
                logger.info("%s: deleting Delete %s", key, action.name)
                await self.drop(CHECKPOINTS, key.namespace, action.name, action.uid)
        if decision.wake_at is None:
            return None
        return max(SOONEST, (decision.wake_at - self.context.now()).total_seconds())

    async def _waits(
        self, key: ObjectKey, checkpoint: Checkpoint, body: Body, action: StartRemoval
    ) -> DeletionDecision | None:
        """Create the Delete; return the decision to wait where that can't be done yet."""
        status, deleted = Status.read(body.get("status")), time_of(body["metadata"]["deletionTimestamp"])
        try:
            if await self._create(checkpoint, body, action):
                return None
        except (NameTakenError, RefusedError) as error:
            logger.warning("%s: the Delete of its data can't be created yet: %s", key, error)
            return wait_for_removal(checkpoint, status, str(error), deleted, self.context.now())
        return wait_for_others(checkpoint, status, deleted, self.context.now())

    async def _create(self, checkpoint: Checkpoint, body: Body, action: StartRemoval) -> bool:
        """Create a Delete; return False where as many are under way as may be."""
        if not self.removals.begin(checkpoint.namespace, checkpoint.spec.storage.url, checkpoint.uid):
            return False
        made = checkpoint_of_data_removal(checkpoint, body, action.fields)
        owner = Owner(CHECKPOINTS, checkpoint.name, checkpoint.uid)
        try:
            # It begins once the watch tells of it, as of all that was created before: as of a Load of the same data.
            await self.context.cluster.create_served(CHECKPOINTS, made, owner)
        except BaseException:
            self.removals.end(checkpoint.namespace, checkpoint.uid)
            raise
        return True

    async def _let_go(self, key: ObjectKey, body: Body, action: LetGo) -> None:
        event = action.event
        if event is not None:
            log = logger.warning if event.type == "Warning" else logger.info
            log("%s: %s", key, event.message)
            await self._post(body, event)
        elif action.end is End.NAMESPACE:
            url = str(((body.get("spec") or {}).get("storage") or {}).get("url", ""))
            logger.warning("%s: its namespace is being deleted: the data at %s stay", key, url)
        await self._set(body, held=False)
        self.removals.end(key.namespace, body["metadata"]["uid"])
        metrics.DELETIONS.labels(action.end.value).inc()

    async def _set(self, body: Body, *, held: bool) -> Body:
        """Put the finalizer on or take it off. Those of others are read first: no cache keeps them."""
        metadata = body["metadata"]
        found = await self.context.cluster.get(CHECKPOINTS, metadata["namespace"], metadata["name"])
        ends = bool(found["metadata"].get("deletionTimestamp"))
        if found["metadata"]["uid"] != metadata["uid"] or ends is not bool(metadata.get("deletionTimestamp")):
            raise ConflictError(f"{metadata['name']} is another by now")
        others = [each for each in finalizers_of(found) if each != DATA_FINALIZER]
        wanted = [*others, DATA_FINALIZER] if held else others
        written = await self.context.cluster.set_finalizers(CHECKPOINTS, found, wanted)
        if ends and not wanted:
            # It is gone with its last finalizer, and the answer has the version from before that.
            self.context.view.forget(CHECKPOINTS, metadata["namespace"], metadata["name"], metadata["uid"])
        else:
            self.context.view.ingest(CHECKPOINTS, written)
        return written

    async def _post(self, body: Body, event: Event) -> None:
        now = f"{self.context.now():%Y-%m-%dT%H:%M:%SZ}"
        await self.context.cluster.post_event(
            CHECKPOINTS, body, kind=event.type, reason=event.reason, message=event.message, now=now
        )

    async def _tell_of_namespace(self, name: str) -> None:
        """Post one event on a namespace that goes: in it none can be created. It names what stays of all in it."""
        async with self._telling:
            try:
                found = await self.context.cluster.get(NAMESPACES, "", name)
            except ApiError as error:
                # An install in one namespace may not read it. The log names each URL.
                logger.warning("namespace %s: %s", name, error)
                return
            if found["metadata"]["uid"] in self._told:
                return
            message = _left(sorted(self._urls(name)))
            now = f"{self.context.now():%Y-%m-%dT%H:%M:%SZ}"
            await self.context.cluster.post_event(
                NAMESPACES, found, kind="Warning", reason="DataKept", message=message, now=now
            )
            self._told.add(found["metadata"]["uid"])

    def _urls(self, namespace: str) -> Iterator[str]:
        served = self.context.view.cache.served
        for there, name, _, _ in served.known(CHECKPOINTS.kind):
            key = CHECKPOINTS.key(there, name)
            body = served.body(key) if there == namespace else None
            if body is None or DATA_FINALIZER not in finalizers_of(body):
                continue
            parsed: Checkpoint | SpecError = served.parsed(key, body)
            if not isinstance(parsed, SpecError):
                owned = self.context.view.cache.owned.of(key, body["metadata"]["uid"])
                observed: Observed = self.context.view.cache.kinds.served[CHECKPOINTS.kind].observe(owned)
                if to_remove(parsed, Status.read(body.get("status")), observed) is not None:
                    yield parsed.spec.storage.url


def finalizers_of(body: ReadBody) -> list[str]:
    """Return the finalizers of an object; of one in the cache the operator's own."""
    return list(body["metadata"].get("finalizers") or ())


def _left(urls: list[str]) -> str:
    """Return what is said of the data that stay, with as many of their URLs as an event has room for."""
    what = f"What {counted(len(urls), 'Checkpoint')} with deletionPolicy Delete saved stays, since no pod can remove it"
    named: list[str] = []
    for url in urls:
        if sum(map(len, named)) + 2 * len(named) + len(url) > _LISTED - len(what):
            break
        named.append(url)
    more = f" and {len(urls) - len(named)} more, in the operator's log" if len(named) < len(urls) else ""
    return f"{what}: {', '.join(named)}{more}"
