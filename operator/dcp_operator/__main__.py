"""`python -m dcp_operator`: the operator's process in a cluster."""

import asyncio
import gc
import logging
import sys
from typing import Annotated, Final

import typer

from dcp_operator.kube.leader import LostLeaseError
from dcp_operator.kube.runtime import CrdMissingError, run
from dcp_operator.kube.settings import Settings, own_namespace

logger = logging.getLogger("dcp_operator")


RECURSION_LIMIT: Final = 30_000
"""The API server takes objects of 10,000 levels. One that could not be read would keep all others from being listed."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    worker_image: Annotated[
        str, typer.Option(envvar="DCP_WORKER_IMAGE", help="Image of workers whose spec names none.")
    ],
    namespace: Annotated[
        list[str] | None,
        typer.Option(envvar="DCP_NAMESPACES", help="Serve this namespace only; may be repeated. Default: all."),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            envvar="DCP_PROTOCOLS", help="Accept this protocol in URLs; may be repeated. Default: s3 gs az abfs file."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(envvar="DCP_WORKERS", min=1, help="Checkpoints worked on at the same time.")
    ] = 32,
    port: Annotated[
        int, typer.Option(envvar="DCP_PORT", help="Port of /healthz, /readyz and /metrics; 0 for none.")
    ] = 8080,
    elect: Annotated[  # noqa: FBT002 - typer makes a pair of options of it
        bool, typer.Option("--elect/--no-elect", envvar="DCP_ELECT", help="Wait for the Lease before working.")
    ] = True,
    lease_namespace: Annotated[
        str, typer.Option(envvar="DCP_LEASE_NAMESPACE", help="Where the Lease is. Default: the pod's namespace.")
    ] = "",
    verbose: Annotated[  # noqa: FBT002 - typer makes an option of it
        bool, typer.Option("--verbose", envvar="DCP_VERBOSE", help="Log every step.")
    ] = False,
) -> None:
    """Serve Checkpoints until told to stop."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("kopf").setLevel(logging.DEBUG if verbose else logging.WARNING)
    settings = Settings(
        worker_image=worker_image,
        namespaces=tuple(namespace or ()),
        protocols=tuple(protocol or ()),
        workers=workers,
        port=port,
        elect=elect,
        lease_namespace=lease_namespace or own_namespace(),
    )
    sys.setrecursionlimit(RECURSION_LIMIT)
    # A collection walks every object there is, and a start with many Checkpoints makes millions that are no garbage:
    # by default a third of the time went there.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    try:
        asyncio.run(run(settings))
    except (CrdMissingError, LostLeaseError) as error:
        logger.error("%s", error)  # noqa: TRY400 - the message says it all
        raise SystemExit(1) from None


if __name__ == "__main__":
    app()
