"""Leader election: of several replicas one works, the one that holds the Lease.

A standby does not start to watch. A leader that can't renew its Lease in time stops at once. Writes of it that are on
their way then do no harm: each is safe to repeat, and carries what it was decided on (see `cluster`). A leader that
shuts down in good order gives the Lease back, so that a standby takes over within a retry period.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.client.models.v1_lease import V1Lease
from kubernetes.aio.client.models.v1_object_meta import V1ObjectMeta
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from dcp_operator.kube.client import metrics

logger = logging.getLogger(__name__)

LEASE_SECONDS: Final = 15
RENEW_SECONDS: Final = 10
RETRY_SECONDS: Final = 2
CALL_SECONDS: Final = 4.0
"""Timeout of one request. It leaves time for another try before the Lease runs out."""

_SILENT: Final = (aiohttp.ClientError, TimeoutError, OSError)


class LostLeaseError(Exception):
    """The Lease could not be renewed: another replica may work already, so this process has to end."""

    def __init__(self, identity: str) -> None:
        super().__init__(f"{identity} lost its Lease: the API server was away, or another replica took over")


class PatientLeaseLock(LeaseLock):
    """A LeaseLock that treats a silent API server as a failed try instead of the end, and that can be given back."""

    async def get(
        self, name: str, namespace: str
    ) -> tuple[bool, LeaderElectionRecord] | tuple[bool, Exception] | tuple[bool, None]:
        """Read the Lease; silence is reported like any other failed request."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await super().get(name, namespace)
        except _SILENT as error:
            return False, ApiException(status=0, reason=str(error) or type(error).__name__)

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        """Create the Lease; False if another replica was faster or no answer came.

        Not by the base class, whose request (of release 37.0.1) its own client refuses: it passes `pretty` as a bool.
        """
        lease = V1Lease(metadata=V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self.api_instance.create_namespaced_lease(namespace, lease)
        except (*_SILENT, ApiException) as error:
            logger.warning("the Lease was not created: %s", error)
            return False
        return True

    async def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        """Renew or take over the Lease; False if another replica was faster or no answer came."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await super().update(name, namespace, updated_record)
        except _SILENT as error:
            logger.warning("no answer on renewing the Lease: %s", error)
            return False

    async def give_back(self) -> None:
        """Empty the Lease if it is still ours, so that a standby need not wait for it to run out."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                lease = await self.api_instance.read_namespaced_lease(self.name, self.namespace)
                if lease.spec is not None and lease.spec.holder_identity == self.identity:
                    lease.spec.holder_identity = None
                    await self.api_instance.replace_namespaced_lease(self.name, self.namespace, lease)
        except (*_SILENT, ApiException) as error:
            logger.warning("the Lease was not given back; it runs out by itself: %s", error)


@dataclass(frozen=True)
class Election:
    """Who takes part in which election.

    Args:
        client: The transport; the Lease has requests of its own, so that load elsewhere does not delay a renewal.
        namespace: Where the Lease lives: the operator's own namespace.
        name: The Lease's name.
        identity: This replica, unique among all: the pod's name and uid.
    """

    client: ApiClient
    namespace: str
    name: str
    identity: str

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the Lease, then work until the work ends by itself.

        Raises:
            LostLeaseError: The Lease was lost; the work was cancelled.
        """
        lock = PatientLeaseLock(self.name, self.namespace, self.identity, self.client)
        started = asyncio.Event()

        async def hold() -> None:
            started.set()

        config = Config(lock, LEASE_SECONDS, RENEW_SECONDS, RETRY_SECONDS, hold, _nothing)
        holding = asyncio.create_task(LeaderElection(config).run(), name="lease")
        try:
            await _first(started.wait(), holding)
            if not started.is_set():
                await holding
                raise LostLeaseError(self.identity)
            logger.info("%s leads", self.identity)
            metrics.LEADING.set(1)
            working = asyncio.ensure_future(work())
            try:
                await asyncio.wait({working, holding}, return_when=asyncio.FIRST_COMPLETED)
                if not working.done():
                    raise LostLeaseError(self.identity)
                await working
            finally:
                working.cancel()
                metrics.LEADING.set(0)
        finally:
            lost = holding.done()
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)
            if started.is_set() and not lost:
                await lock.give_back()


async def _first(*waits: Awaitable[object]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    tasks[0].cancel()


async def _nothing() -> None:
    """Leave what has to happen on losing the Lease to `lead`."""
