"""botocore's client of S3, for the little that obstore can't do: nothing that it raises or logs quotes a secret.

An answer's error is masked before botocore makes an exception of it, so that no cause in a traceback, and no line of a
log, holds what the store quoted of the request.
"""

from collections.abc import Mapping
from typing import Any

from dcp_engine import redact
from dcp_engine.stores import options


def client(given: Mapping[str, Any]) -> Any:  # noqa: ANN401 - botocore has no types
    """Return a client of S3 by the options of a store.

    Raises:
        ImportError: botocore is not installed: it is an extra of the engine.
    """
    import botocore.session  # noqa: PLC0415 - an extra

    made = botocore.session.get_session().create_client("s3", **options.for_botocore(given))
    made.meta.events.register("after-call.s3", _masked)
    return made


def _masked(parsed: Any = None, **_: Any) -> None:  # noqa: ANN401 - botocore's own
    """Mask the error of an answer; botocore calls this with each answer, by these names."""
    error = parsed.get("Error") if isinstance(parsed, dict) else None
    if error:
        parsed["Error"] = {
            name: redact.answer(value) if isinstance(value, str) else value for name, value in error.items()
        }
