"""Checkpoints with deletionPolicy Delete in a namespace that is being deleted, where nothing can be created."""

import pytest

from dcp_operator.kube.client.api import NAMESPACES, ApiRequest, GoneError
from deletion_world import NAME, SAVED, World, played
from scenes import URL
from series_world import OperatorEndedError


def terminating(request: ApiRequest) -> Exception | None:
    """Say what the API server says to whoever creates an object in a namespace that is being deleted."""
    inside = request.method == "POST" and "/namespaces/team/" in request.path
    return GoneError("namespace team is being terminated", 403) if inside else None


async def all_of(world: World, names: list[str]) -> None:
    """Reconcile several Checkpoints until nothing is left to do, by operators of which one may end."""
    for name in names:
        for _ in range(3):
            try:
                await world.work(name=name)
            except OperatorEndedError:
                world.start()


@pytest.mark.parametrize("dies", [None, *range(5)])
def test_a_namespace_that_goes_takes_no_data_along_and_one_event_names_them(dies: int | None) -> None:
    async def scenario() -> None:
        world = World()
        urls = {"save-2000": "s3://bucket/save-2000", "save-3000": "s3://bucket/save-3000"}
        for name, url in urls.items():
            world.put({"spec.deletionPolicy": "Delete", "spec.storage.url": url}, name)
        world.put({"spec.deletionPolicy": "Delete", "spec.suspend": True}, "unbegun")
        world.api.objects[NAMESPACES.path(None, "team")] = {
            "kind": "Namespace",
            "metadata": {"name": "team", "uid": "n"},
        }
        names = [NAME, *urls, "unbegun"]
        await all_of(world, names)
        for name in (NAME, *urls):
            world.change(name, status=SAVED)
        for name in names:
            world.delete(name)
        object.__setattr__(world.api, "refuse", terminating)
        if dies is not None:
            world.api.dies_after(dies, answered=bool(dies % 2))
        await all_of(world, names)
        assert [world.body(name) for name in names] == [None] * 4
        (event,) = [each for each in world.events if each["involvedObject"]["kind"] == "Namespace"]
        assert event["metadata"]["namespace"] == "default"
        assert event["involvedObject"]["name"] == "team"
        assert event["message"] == (
            "What 3 Checkpoints with deletionPolicy Delete saved stays, since no pod can remove it: "
            f"{URL}, s3://bucket/save-2000, s3://bucket/save-3000"
        )

    played(scenario)
