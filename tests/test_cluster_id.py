"""Which cluster an operator takes itself to be in: read once, told, or not known."""

import asyncio
import logging

import pytest

from dcp_operator.kube.client.api import NAMESPACES, RefusedError, UnavailableError
from dcp_operator.kube.process.cluster_id import with_cluster_id
from dcp_operator.kube.process.settings import Settings
from fake_api import FakeApi

SETTINGS = Settings(worker_image="worker")


def test_it_is_the_uid_of_kube_system() -> None:
    api = FakeApi()
    api.objects[NAMESPACES.path("", "kube-system")] = {"metadata": {"name": "kube-system", "uid": "c-1"}}
    found = asyncio.run(with_cluster_id(SETTINGS, api))
    assert (found.cluster_id, found.site.cluster_id, found.site.knows_cluster) == ("c-1", "c-1", True)


def test_what_was_told_is_not_read() -> None:
    settings = Settings(worker_image="worker", cluster_id="c-2")
    # An API server that has no namespace at all.
    assert asyncio.run(with_cluster_id(settings, FakeApi())) is settings


@pytest.mark.parametrize("error", [None, RefusedError("namespaces is forbidden", 403)], ids=["gone", "forbidden"])
def test_where_it_may_not_be_read_it_is_not_known_and_that_is_said(
    error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    api = FakeApi()
    object.__setattr__(api, "refuse", lambda _: error)
    with caplog.at_level(logging.WARNING):
        found = asyncio.run(with_cluster_id(SETTINGS, api))
    assert (found.cluster_id, found.site.knows_cluster) == ("", False)
    assert "--cluster-id" in caplog.text


def test_an_api_server_that_does_not_answer_is_asked_again_by_the_next_process() -> None:
    api = FakeApi()
    object.__setattr__(api, "refuse", lambda _: UnavailableError("later", 503))
    with pytest.raises(UnavailableError):
        asyncio.run(with_cluster_id(SETTINGS, api))
