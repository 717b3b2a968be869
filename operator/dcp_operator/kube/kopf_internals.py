"""The private parts of kopf that are used here, in this module alone; kopf is pinned to the version that has them.

kopf keeps a memory of every object that it hears of, for handlers that ours has not. There is no public way to say so.
Nor is there one to have what it hears read by another reader of JSON than Python's own.
"""

from types import SimpleNamespace
from typing import Any

import kopf
from kopf._cogs.clients import api
from kopf._cogs.structs.ephemera import AnyMemo
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory

from dcp_operator.kube.shallow import read_json


def read_any_depth() -> None:
    """Have kopf read its lists and its watches with a reader that no depth stops."""
    vars(api).update(get=_get, json=SimpleNamespace(loads=read_json))


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
