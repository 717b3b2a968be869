"""A DELETE that the store refuses if the object is another by now. obstore has none: it signs, and this sends."""

import http.client
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from dcp_engine.errors import StaleVersion, StorageUnavailable
from dcp_engine.stores import http_range
from dcp_engine.stores.http_range import Network
from dcp_engine.translate import is_missing_bucket

SIGNED_SECONDS: Final = 900
_OTHER_BY_NOW: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED})


def delete_if_match(url: str, path: str, e_tag: str, network: Network) -> bool:
    """Send one DELETE with `If-Match`, once; return whether S3 says that it keeps what was removed, as a version.

    Args:
        url: Signed for a DELETE of the object.
        path: What errors call the object.
        e_tag: Of the version that may be removed, as the store wrote it.
        network: How to reach the store.

    Raises:
        StaleVersion: Another object stands there, or none.
        RefusedSignature: The store refuses what was signed, or the removal.
        StorageUnavailable: Any other answer, or none; then nobody knows whether the object is removed.
    """
    parts = urlsplit(url)
    try:
        connection = http_range.connected(parts.scheme, parts.netloc, network)
        try:
            connection.request("DELETE", f"{parts.path}?{parts.query}", headers={"If-Match": e_tag})
            response = connection.getresponse()
            text = response.read(2000).decode(errors="replace")
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        why = error or type(error).__name__
        raise StorageUnavailable(f"{path}: no whole answer from {parts.netloc}: {why}") from error
    if response.status in _OTHER_BY_NOW and not is_missing_bucket(text):
        raise StaleVersion.of(path)
    if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
        raise http_range.refusal(response, path, text)
    return str(response.getheader("x-amz-delete-marker")).lower() == "true"
