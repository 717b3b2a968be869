"""The certificates of all replicas, where training finds them: the ConfigMap `dcp-operator-ca`.

Each replica writes its own certificate into the ConfigMap of the operator's namespace. The one that leads hands all of
them, with the channel's URL, to each namespace that has a Checkpoint with a target. A ConfigMap of that name that is
somebody else's is left alone. The API server, which asks about evictions, has them in the webhook's configuration.
"""

import asyncio
import base64
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPS_PORT
from typing import Final
from urllib.parse import urlsplit

from dcp_contract.environment import CA_KEY
from dcp_contract.training import CHANNEL_CONFIG_MAP
from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.naming import GROUP, MANAGED_BY, MANAGED_BY_LABEL
from dcp_operator.controllers.decision import Event
from dcp_operator.kube.channel.admission_review import (
    EVICTION_CONFIGURATION,
    EVICTION_PATH,
    EVICTION_WEBHOOK,
)
from dcp_operator.kube.channel.certificate import valid
from dcp_operator.kube.client.api import CONFIG_MAPS, WEBHOOKS, ApiError, ConflictError, GoneError, RefusedError
from dcp_operator.kube.client.cluster import Cluster

logger = logging.getLogger(__name__)

INTERVAL: Final = 10.0
MOST: Final = 8
"""Certificates of a bundle: those of two replicas and of the processes that they replaced. The oldest go first."""
URL_KEY: Final = "url"
CHANNEL_LABEL: Final = f"{GROUP}/channel"
"""On each ConfigMap that the operator made: one without it is somebody else's."""


def is_ours(body: ReadBody) -> bool:
    """Return whether the operator made a ConfigMap."""
    return CHANNEL_LABEL in (body["metadata"].get("labels") or {})


def bundle(of: ReadBody | None, own: str, now: datetime) -> str:
    """Return the certificates of a ConfigMap with one's own among them, in one order for all replicas."""
    known = ((of or {}).get("data") or {}).get(CA_KEY, "")
    return "".join(sorted(valid(f"{known}\n{own}", now)[:MOST]))


def asked_url(client: ReadBody) -> str:
    """Return the URL that a webhook's clientConfig has the API server ask."""
    service = client.get("service")
    if not service:
        return str(client.get("url") or "")
    host = f"{service.get('name', '')}.{service.get('namespace', '')}.svc"
    return f"https://{host}:{service.get('port') or HTTPS_PORT}{service.get('path') or ''}"


def _place(url: str) -> tuple[str, int, str]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or HTTPS_PORT, parts.path


def config_map(namespace: str, certificates: str, url: str) -> Body:
    """Return the ConfigMap of a namespace."""
    return {
        "apiVersion": CONFIG_MAPS.api_version,
        "kind": CONFIG_MAPS.kind,
        "metadata": {
            "name": CHANNEL_CONFIG_MAP,
            "namespace": namespace,
            "labels": {MANAGED_BY_LABEL: MANAGED_BY, CHANNEL_LABEL: "ca"},
        },
        "data": {CA_KEY: certificates, URL_KEY: url},
    }


@dataclass
class Trust:
    """Writes the ConfigMaps.

    Args:
        cluster: Where.
        namespace: The operator's own.
        certificate: This replica's, in PEM.
        url: Under which training reaches the channel.
    """

    cluster: Cluster
    namespace: str
    certificate: str
    url: str
    unasked: str | None = field(default=None, init=False)
    """Why the API server does not ask about evictions; empty where it does, None while that is not known."""
    _bundle: str = field(default="", init=False)
    _foreign: set[str] = field(default_factory=set, init=False)
    _said: dict[str, str] = field(default_factory=dict, init=False)
    """What was logged last of each namespace that can't be written."""

    async def forever(self, namespaces: Callable[[], Iterable[str]], tell: Callable[[str, Event], None]) -> None:
        """Publish again and again: a replica that starts has a new certificate, and a namespace its first target."""
        while True:
            try:
                await self.publish(namespaces(), tell)
            except ApiError as error:
                self._log(self.namespace, str(error))
            await asyncio.sleep(INTERVAL)

    async def publish(self, namespaces: Iterable[str], tell: Callable[[str, Event], None]) -> None:
        """Bring the ConfigMaps up to date: the operator's own, and those of the namespaces.

        Raises:
            ApiError: The operator's own can't be written now.
        """
        self._bundle = await self._joined()
        try:
            self.unasked = await self._vouch()
        except ApiError as error:
            self._log(EVICTION_CONFIGURATION, str(error))
        for namespace in namespaces:
            if namespace == self.namespace:
                continue
            try:
                await self._hand_out(namespace, tell)
            except ApiError as error:
                self._log(namespace, str(error))

    async def _vouch(self) -> str:
        """Have the API server trust all replicas when it asks about evictions; return why it can't ask."""
        try:
            there = await self.cluster.get(WEBHOOKS, "", EVICTION_CONFIGURATION)
        except GoneError:
            return f"there is no ValidatingWebhookConfiguration {EVICTION_CONFIGURATION}"
        except RefusedError:
            return f"the operator may not read ValidatingWebhookConfiguration {EVICTION_CONFIGURATION}"
        known = {each["name"]: each.get("clientConfig") or {} for each in there.get("webhooks") or ()}
        if EVICTION_WEBHOOK not in known:
            return f"ValidatingWebhookConfiguration {EVICTION_CONFIGURATION} has no webhook {EVICTION_WEBHOOK}"
        asked, own = asked_url(known[EVICTION_WEBHOOK]), f"{self.url.rstrip('/')}{EVICTION_PATH}"
        if _place(asked) != _place(own):
            # Another operator's, then: its certificates stay.
            return f"ValidatingWebhookConfiguration {EVICTION_CONFIGURATION} asks {asked}, and the operator is at {own}"
        wanted = base64.b64encode(self._bundle.encode()).decode()
        if known[EVICTION_WEBHOOK].get("caBundle") != wanted:
            try:
                await self.cluster.apply_ca_bundle(EVICTION_CONFIGURATION, EVICTION_WEBHOOK, wanted)
            except RefusedError as error:
                return f"the operator may not write ValidatingWebhookConfiguration {EVICTION_CONFIGURATION}: {error}"
        return ""

    def _log(self, namespace: str, why: str) -> None:
        """Log why the certificates are not published in a namespace, once."""
        if self._said.get(namespace) != why:
            self._said[namespace] = why
            logger.warning("the channel's certificates are not published in %s: %s", namespace, why)

    async def _joined(self) -> str:
        """Put one's own certificate among those of the other replicas; return all."""
        there = await self._read(self.namespace)
        if there is not None and not is_ours(there):
            self._log(self.namespace, f"ConfigMap {CHANNEL_CONFIG_MAP} is not the operator's")
            return self.certificate
        wanted = bundle(there, self.certificate, datetime.now(UTC))
        if there is None or there.get("data") != {CA_KEY: wanted, URL_KEY: self.url}:
            await self._write(there, config_map(self.namespace, wanted, self.url))
        return wanted

    async def _hand_out(self, namespace: str, tell: Callable[[str, Event], None]) -> None:
        there = await self._read(namespace)
        if there is not None and not is_ours(there):
            if namespace not in self._foreign:
                self._foreign.add(namespace)
                message = (
                    f"ConfigMap {CHANNEL_CONFIG_MAP} of this namespace is not the operator's and is left alone: "
                    "training here does not reach the operator. Delete it to have the operator make its own."
                )
                logger.warning("%s: %s", namespace, message)
                tell(namespace, Event(type="Warning", reason="ConfigMapNotOurs", message=message))
            return
        self._foreign.discard(namespace)
        wanted = config_map(namespace, self._bundle, self.url)
        if there is None or there.get("data") != wanted["data"]:
            await self._write(there, wanted)

    async def _read(self, namespace: str) -> Body | None:
        try:
            return await self.cluster.get(CONFIG_MAPS, namespace, CHANNEL_CONFIG_MAP)
        except GoneError:
            return None

    async def _write(self, there: ReadBody | None, wanted: Body) -> None:
        version = None if there is None else there["metadata"]["resourceVersion"]
        try:
            await self.cluster.put(CONFIG_MAPS, wanted, version)
        except ConflictError:
            # Another replica was faster. The next round has both.
            return
