"""The private parts of kopf that are used here, in this module alone; kopf is pinned to the version that has them.

kopf keeps a memory of every object that it hears of, for handlers that ours has not. There is no public way to say so.
"""

import kopf
from kopf._cogs.structs.ephemera import AnyMemo
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory


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
