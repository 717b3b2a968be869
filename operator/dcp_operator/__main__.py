"""`python -m dcp_operator`: the operator's process in a cluster."""

import asyncio
import gc
import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from dcp_contract.training import TRAINING_PORT
from dcp_operator.api.pod.rules import PodSecurity
from dcp_operator.kube.process.leader import LostLeaseError
from dcp_operator.kube.process.runtime import CrdMissingError, run
from dcp_operator.kube.process.settings import SettingError, Settings, image, namespaces, own_namespace, protocols
from dcp_operator.kube.process.settings import channel_url as channel_url_of
from dcp_operator.kube.process.settings import cluster_id as cluster_id_of
from dcp_operator.objects.job import NetworkIsolation
from dcp_operator.objects.worker_pod import WORKER_UID

logger = logging.getLogger("dcp_operator")


Option = TypeVar("Option")


def _checked(read: Callable[[Any], Option]) -> Callable[[Any], Option]:
    """Return a reader of an option whose complaint names the option and ends the process before it does anything."""

    def checked(value: Any) -> Option:  # noqa: ANN401 - whatever typer made of the option
        try:
            return read(() if value is None else value)
        except SettingError as error:
            raise typer.BadParameter(str(error)) from None

    return checked


def _lease_namespace(value: str) -> str:
    (found,) = namespaces([value]) or (own_namespace(),)
    return found


PodSecurityOption = Annotated[
    PodSecurity,
    typer.Option(
        envvar="DCP_POD_SECURITY",
        help="Who judges what a worker pod may do to its node: the operator, by the restricted profile, or the Pod "
        "Security admission of its namespace.",
    ),
]
ChannelPortOption = Annotated[
    int,
    typer.Option(
        envvar="DCP_CHANNEL_PORT", min=0, max=65535, help="Port that the agents of trainings connect to; 0 for none."
    ),
]
ChannelUrlOption = Annotated[
    str,
    typer.Option(
        envvar="DCP_CHANNEL_URL",
        callback=_checked(channel_url_of),
        help="Address of that port for the agents. Default: the Service dcp-operator.",
    ),
]
ClusterIdOption = Annotated[
    str,
    typer.Option(
        envvar="DCP_CLUSTER_ID",
        callback=_checked(cluster_id_of),
        help="Id of the cluster, by which a Save with ifExists: Adopt knows its own. Default: uid of kube-system.",
    ),
]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(  # noqa: PLR0913 - one parameter for each option
    *,
    worker_image: Annotated[
        str,
        typer.Option(
            envvar="DCP_WORKER_IMAGE", callback=_checked(image), help="Image of workers whose spec names none."
        ),
    ],
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            envvar="DCP_NAMESPACES",
            callback=_checked(namespaces),
            help="Serve this namespace only; may be repeated. Default: all.",
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            envvar="DCP_PROTOCOLS",
            callback=_checked(protocols),
            help="Accept this protocol in URLs; may be repeated. Default: s3 gs az abfs file.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(envvar="DCP_WORKERS", min=1, max=1000, help="Checkpoints worked on at the same time.")
    ] = 32,
    port: Annotated[
        int,
        typer.Option(envvar="DCP_PORT", min=0, max=65535, help="Port of /healthz, /readyz and /metrics; 0 for none."),
    ] = 8080,
    elect: Annotated[
        bool, typer.Option("--elect/--no-elect", envvar="DCP_ELECT", help="Wait for the Lease before working.")
    ] = True,
    lease_namespace: Annotated[
        str,
        typer.Option(
            envvar="DCP_LEASE_NAMESPACE",
            callback=_checked(_lease_namespace),
            help="Where the Lease is. Default: the pod's namespace.",
        ),
    ] = "",
    pod_security: PodSecurityOption = PodSecurity.RESTRICTED,
    worker_uid: Annotated[
        str,
        typer.Option(
            envvar="DCP_WORKER_UID",
            help="User, group and fsGroup of worker pods whose podTemplate names none; `none` lets the cluster choose.",
        ),
    ] = str(WORKER_UID),
    network_policy: Annotated[
        NetworkIsolation,
        typer.Option(envvar="DCP_NETWORK_POLICY", help="Each attempt's NetworkPolicy: both ways, ingress, none."),
    ] = NetworkIsolation.ATTEMPT,
    channel_port: ChannelPortOption = TRAINING_PORT,
    channel_url: ChannelUrlOption = "",
    cluster_id: ClusterIdOption = "",
    verbose: Annotated[bool, typer.Option("--verbose", envvar="DCP_VERBOSE", help="Log every step.")] = False,
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
        lease_namespace=lease_namespace,
        pod_security=pod_security,
        worker_uid=_uid(worker_uid),
        isolation=network_policy,
        channel_port=channel_port,
        channel_url=channel_url,
        cluster_id=cluster_id,
    )
    # A pass of the garbage collector walks all objects. A start with many Checkpoints makes millions of objects that
    # stay: with Python's default thresholds a third of the start's time went into such passes.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    try:
        asyncio.run(run(settings))
    except (CrdMissingError, LostLeaseError) as error:
        logger.error("%s", error)  # noqa: TRY400 - the message says it all
        raise SystemExit(1) from None


def _uid(text: str) -> int | None:
    """Return a user above 0, or None where the cluster is to choose."""
    if text == "none":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise typer.BadParameter("write a number above 0, or none", param_hint="--worker-uid")
    return int(text)


if __name__ == "__main__":
    app()
