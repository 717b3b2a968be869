"""A listing of an object store, page by page."""

from typing import TYPE_CHECKING, Any, Final

from dcp_engine.stores import guarded_obstore as obstore

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAGE: Final = 1000
"""Names of a page, as S3 gives them: what a listing that breaks off has of a page is lost."""


class Pages:
    """The pages of a listing, one after the other, of which any may be asked for again."""

    def __init__(self, store: Any, prefix: str) -> None:  # noqa: ANN401 - obstore's own type is not public
        self._store = store
        self._prefix = prefix
        self._last: str | None = None
        self._pages: Iterator[Any] | None = None

    def following(self) -> Any:  # noqa: ANN401
        """Return the next page, or None after the last one."""
        if self._pages is None:
            self._pages = obstore.list(self._store, self._prefix, offset=self._last, chunk_size=_PAGE)
        try:
            page = next(self._pages, None)
        except BaseException:
            self._pages = None
            raise
        if page:
            self._last = page[-1]["path"]
        return page
