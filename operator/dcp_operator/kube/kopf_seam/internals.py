"""The private names of kopf that are used, all of them; kopf is pinned to the version that has them.

    name                                        why there is no public way
    _core.reactor.inventory.ResourceMemories    kopf keeps a memory of every object that it hears of, for handlers that
                                                ours has not; ten thousand finished Checkpoints would pay for it
    _cogs.clients.api.get, .json                kopf reads JSON by Python's own reader, which objects that are nested
                                                deeply stop: no list that holds one could be read
    _cogs.clients.errors.check_response         kopf takes Retry-After for a number; a date, which RFC 9110 allows as
                                                well, would end a watch

tests/test_kopf_seam.py checks that each name is there, with the signature that is relied on.
"""

from types import SimpleNamespace
from typing import Any, Final

import kopf
from aiohttp import ClientResponse
from kopf._cogs.clients import api, errors
from kopf._cogs.structs.ephemera import AnyMemo
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory

from dcp_operator.kube.client.api import retry_seconds
from dcp_operator.kube.client.transport import read_json

_RETRY_AFTER: Final = "Retry-After"


def read_any_depth() -> None:
    """Have kopf read its lists and its watches with a reader that no depth stops."""
    vars(api).update(get=_get, json=SimpleNamespace(loads=read_json))


def read_any_retry_after() -> None:
    """Have kopf wait for as long as a busy API server says: it takes seconds alone, and a date would end a watch."""
    vars(errors).update(check_response=_checked)


_check: Final = errors.check_response


async def _checked(response: ClientResponse) -> None:
    try:
        await _check(response)
    except errors.APITooManyRequestsError as error:
        seconds = retry_seconds(response.headers.get(_RETRY_AFTER))
        for name in [each for each in error.headers if each.lower() == _RETRY_AFTER.lower()]:
            del error.headers[name]
        if seconds is not None:
            error.headers[_RETRY_AFTER] = str(seconds)
        raise


async def _get(url: str, **how: Any) -> Any:  # noqa: ANN401 - as kopf has it
    response = await api.request(method="get", url=url, **how)
    async with response:
        return read_json(await response.read())


class Forgetful(ResourceMemories):
    """kopf's memory of objects, which our handlers have no use for."""

    async def recall(
        self,
        raw_body: kopf.RawBody,
        *,
        memobase: AnyMemo | None = None,
        noticed_by_listing: bool = False,
        ephemeral: bool = False,  # noqa: ARG002 - the base class's signature
    ) -> ResourceMemory:
        """Return a memory that is not kept."""
        return await super().recall(raw_body, memobase=memobase, noticed_by_listing=noticed_by_listing, ephemeral=True)
