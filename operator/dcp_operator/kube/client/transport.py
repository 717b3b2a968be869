"""One request to the API server and its answer, over the transport of `kubernetes.aio`.

JSON bodies go in and come out as dicts, without the generated models, which cost memory and time and drop fields that
they do not know.

An answer is read whatever its depth: one object must not keep all others from being read. The API server takes objects
of 10,000 levels. How many levels Python's own reader takes depends on its version. Where the reader takes fewer, a list
that holds such an object can't be read at all. So levels that are deeper than those of any valid spec are cut off. What
is left of the spec is still deeper than a spec may be, and is refused for that.
"""

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Self

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.incluster_config import load_incluster_config
from kubernetes.aio.config.kube_config import load_kube_config
from pydantic_core import from_json

from dcp_operator.api.json_types import Body
from dcp_operator.kube.client import metrics
from dcp_operator.kube.client.api import ApiRequest, UnavailableError, refusal

COMPONENT: Final = "dcp-operator"
CONNECT_SECONDS: Final = 5.0
LEVELS: Final = 180
"""Below the 200 that the reader takes, above those that a spec may have, with a list and its page around it."""
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


@dataclass(frozen=True)
class Transport:
    """One connection pool to the API server.

    Args:
        client: The transport; its configuration holds the address and the credentials, which it refreshes.
        instance: The pod that reports events.
    """

    client: ApiClient
    instance: str = ""

    @classmethod
    async def connect(cls, instance: str = "", connections: int = 64) -> Self:
        """Connect as the pod's service account, or by the kubeconfig outside of a cluster."""
        configuration = await load_configuration()
        configuration.connection_pool_maxsize = connections
        return cls(ApiClient(configuration), instance)

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()  # type: ignore[no-untyped-call]

    async def _json(self, request: ApiRequest) -> Body:
        answer: Body = read_json(await self._send(request))
        return answer

    async def _send(self, request: ApiRequest) -> bytes:
        """Send one request, once: whoever asked does the whole reconcile again where no answer came."""
        headers = {"Accept": request.accept, "Content-Type": request.content, "User-Agent": COMPONENT}
        await self.client.update_params_for_auth(
            headers, None, ["BearerToken"], request.path, request.method, request.body
        )
        timeout = aiohttp.ClientTimeout(total=request.seconds, sock_connect=CONNECT_SECONDS)
        plural = request.resource.plural if request.resource else "discovery"
        try:
            response = await self.client.rest_client.request(  # type: ignore[no-untyped-call]
                request.method,
                self.client.configuration.host + request.target,
                headers=headers,
                body=request.body,
                _request_timeout=timeout,
            )
            raw: bytes = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            metrics.API_REQUESTS.labels(request.method, plural, "none").inc()
            raise _silence(request, error) from error
        metrics.API_REQUESTS.labels(request.method, plural, str(response.status)).inc()
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise refusal(request, response.status, response.headers, raw)
        return raw


async def load_configuration() -> Configuration:
    """Return the address and the credentials: the service account's in a pod, else the kubeconfig's."""
    configuration = Configuration()
    # As kopf does for the watches. To look for proxies in the environment costs two changes of thread per request.
    configuration.client_session_kwargs = {"trust_env": False}
    try:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except ConfigException:
        await load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    return configuration


def _silence(request: ApiRequest, error: Exception) -> UnavailableError:
    return UnavailableError(f"{request.method} {request.path}: {error or type(error).__name__}")


def read_json(text: str | bytes) -> Any:  # noqa: ANN401 - JSON
    """Return the value; null stands for each list and mapping in it that lies deeper than LEVELS.

    Raises:
        ValueError: It is no JSON.
    """
    try:
        return from_json(text)
    except ValueError:
        return from_json(_cut(text.decode() if isinstance(text, bytes) else text))


def _cut(text: str) -> str:
    kept: list[str] = []
    depth = done = 0
    for found in _TOKEN.finditer(text):
        sign = found[0]
        if sign in "[{":
            depth += 1
            if depth == LEVELS + 1:
                kept.append(text[done : found.start()])
        elif sign in "]}":
            if depth == LEVELS + 1:
                kept.append("null")
                done = found.end()
            depth -= 1
    return "".join([*kept, text[done:]])
