"""What the operator reads of the API server: objects, lists, logs, events."""

import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import JOB_LABEL
from dcp_operator.kube.client.api import (
    EVENTS,
    JSON,
    METADATA_LIST,
    PODS,
    ApiError,
    ApiRequest,
    GoneError,
    Resource,
)
from dcp_operator.kube.client.transport import Transport

logger = logging.getLogger(__name__)

LOG_SECONDS: Final = 3.0
LOG_BYTES: Final = 1_048_576
LOG_LINES: Final = 500
"""Rank 0 tells of its progress between what the workload prints."""
PAGE: Final = 500
"""Objects per page of a list."""


@dataclass(frozen=True)
class Listed:
    """What a resync needs to know of an object in the API server."""

    namespace: str
    name: str
    uid: str
    version: str

    @property
    def number(self) -> int:
        """The version, to be compared."""
        return int(self.version)


@dataclass(frozen=True)
class Reads(Transport):
    """A connection pool by which objects are read."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Body:
        """Read one object.

        Raises:
            GoneError: There is none.
        """
        body = await self._json(ApiRequest("GET", resource, resource.path(namespace, name)))
        return {"apiVersion": resource.api_version, "kind": resource.kind, **body}

    async def pods_of(self, namespace: str, job: str) -> list[Body]:
        """Read the pods of a Job past the watch."""
        request = ApiRequest("GET", PODS, PODS.path(namespace), query={"labelSelector": f"{JOB_LABEL}={job}"})
        pods: list[Body] = (await self._json(request)).get("items") or []
        return pods

    async def running_pods(self, namespace: str, selector: str) -> list[Body]:
        """Read the metadata of the pods that labels select and that run, as the API server's own watch has them."""
        running, cached = "status.phase=Running", {"resourceVersion": "0"}
        pods = self.list_bodies(PODS, namespace, selector, METADATA_LIST, cached, running)
        return [each["metadata"] async for each in pods]

    async def list_metadata(
        self, resource: Resource, namespace: str | None, selector: str = ""
    ) -> AsyncIterator[Listed]:
        """Yield what identifies every object, as the API server's own watch has it.

        Which may be behind by a moment. A list as of now would have it read all objects of the kind from its database,
        those of everybody, to find ours.
        """
        async for item in self.list_bodies(resource, namespace, selector, METADATA_LIST, {"resourceVersion": "0"}):
            metadata = item["metadata"]
            yield Listed(metadata["namespace"], metadata["name"], metadata["uid"], metadata["resourceVersion"])

    async def list_bodies(
        self,
        resource: Resource,
        namespace: str | None,
        selector: str = "",
        accept: str = JSON,
        how: Mapping[str, str] | None = None,
        fields: str = "",
    ) -> AsyncIterator[Body]:
        """Yield every object, page by page, as of one moment: of now, or as `how` has it."""
        query = {"limit": str(PAGE)} | ({"labelSelector": selector} if selector else {})
        query |= {"fieldSelector": fields} if fields else {}
        first = dict(how or {})
        while True:
            request = ApiRequest("GET", resource, resource.path(namespace), query=query | first, accept=accept)
            page, first = await self._json(request), {}
            for item in page.get("items") or ():
                yield item
            token = page["metadata"].get("continue")
            if not token:
                return
            query = query | {"continue": token}

    async def serves(self, resource: Resource) -> bool:
        """Say whether the API server knows the kind, that is, whether its CRD is installed."""
        try:
            found = await self._json(ApiRequest("GET", None, resource.group_path))
        except GoneError:
            return False
        return any(entry.get("name") == resource.plural for entry in found.get("resources") or ())

    async def log_tail(self, namespace: str, pod: str, container: str, lines: int = LOG_LINES) -> str | None:
        """Return the last lines of a log, or nothing: progress is decoration. None where it may not be read."""
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(LOG_BYTES)}
        path = PODS.path(namespace, pod, "log")
        try:
            raw = await self._send(ApiRequest("GET", PODS, path, query=query, accept="*/*", seconds=LOG_SECONDS))
        except ApiError as error:
            logger.debug("no log of %s/%s: %s", namespace, pod, error)
            return None if error.status == HTTPStatus.FORBIDDEN else ""
        return raw.decode(errors="replace")

    async def last_event(self, namespace: str, uid: str, reason: str) -> str:
        """Return the message of the latest event of that reason about an object; empty where there is none."""
        query = {"fieldSelector": f"involvedObject.uid={uid},reason={reason}"}
        found = await self._json(ApiRequest("GET", EVENTS, EVENTS.path(namespace), query=query))
        events = sorted(found.get("items") or (), key=lambda each: each.get("lastTimestamp") or "")
        return str(events[-1].get("message") or "") if events else ""
