"""`delete` on servers: races with loads and saves, a kill at each of its requests, and Azure's conditions."""

import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import cloud_servers
import dcp_engine
import fault_situations
import flaky_proxy
import s3_server
import versitygw
from cluster import builds
from dcp_engine.errors import SaveMismatch, StaleVersion
from dcp_engine.format import layout
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import ATOMIC
from engine_places import Place, race_loads, race_saves
from rank_processes import CONTEXT
from versitygw import Gateway

pytestmark = pytest.mark.tier("faults")


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with versitygw.running() as gateway:
        yield gateway


def test_removals_race_on_a_real_store(gateway: Gateway, tmp_path: Path) -> None:
    """versitygw compares: of 60 saves that replace a checkpoint under its removal none is removed with it."""
    place = Place(gateway.server.url(tmp_path.name), gateway.server.options)
    assert open_store(place.url, place.options).guard("remove") == ATOMIC
    ends = [race_loads(place.at("loads"), 40), race_saves(place.at("saves"), 60)]
    print(ends)
    assert min(end for each in ends for end in each.values()) > 0


def test_a_remover_may_be_killed_at_any_request(gateway: Gateway, tmp_path: Path) -> None:
    """Before a request gets there, or after it, by turns: the checkpoint stands, or a clean-up removes all."""
    stands = Place(gateway.server.url(f"{tmp_path.name}/stands"), gateway.server.options)
    for seed in (1, 2, 3):
        fault_situations.save_to(stands.url, gateway.server.options, seed)
    killed: list[str] = []
    now = timedelta(0)
    with flaky_proxy.before(gateway.server) as flaky:
        for number in range(1000):
            path = f"{tmp_path.name}/{number}"
            shutil.copytree(gateway.folder / f"{tmp_path.name}/stands", gateway.folder / path)
            url, options = gateway.server.url(path), flaky.server.options
            remover = CONTEXT.Process(target=fault_situations.delete_in, args=(dict(os.environ), url, options))
            if not flaky_proxy.killed_at(number, remover, flaky, killed):
                break
            stood = fault_situations.held(url, gateway.server.options)
            assert stood in {0, 3}, killed
            if not stood:
                dcp_engine.clean(url, storage_options=gateway.server.options, older_than=now, keep_replaced=now)
                assert gateway.files(path) == [], killed
            assert dcp_engine.list_checkpoints(url, storage_options=gateway.server.options) == []
    assert gateway.files(path) == []
    assert "DELETE .metadata" in killed
    assert any("?delete" in request for request in killed), killed


@pytest.mark.parametrize("locked", [False, True], ids=["versions", "object lock"])
def test_a_bucket_that_keeps_versions_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, locked: bool
) -> None:
    """What is removed stays as a noncurrent version; a retention of locked objects refuses none of it."""
    if lacking := builds.lacking(programs=["versitygw"]):
        pytest.skip(lacking)
    (tmp_path / "versions").mkdir()
    with s3_server.versitygw(tmp_path / "data", versions=tmp_path / "versions") as server:
        client, bucket = server.client(), "locked" if locked else "versioned"
        client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=locked)
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        if locked:
            rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
            lock = {"ObjectLockEnabled": "Enabled", "Rule": rule}
            client.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=lock)
        place = Place(f"s3://{bucket}/step-1", server.options)
        removed = place.delete(place.save(1))
        assert removed.conflict_guard == ATOMIC
        assert place.files() == []
        assert place.at("step-2").delete(place.at("step-2").save(2))
        kept = [each["Key"] for each in client.list_object_versions(Bucket=bucket)["Versions"]]
    assert "step-1/.metadata" in kept
    (said,) = [each for each in caplog.messages if "NoncurrentVersionExpiration" in each]
    assert said.startswith(f"s3://{bucket} keeps versions")


def test_azure_compares(tmp_path: Path) -> None:
    if lacking := builds.lacking(packages=["azurite"]):
        pytest.skip(lacking)
    with cloud_servers.azurite() as azure:
        place = Place(azure.url(f"{tmp_path.name}/step-1"), azure.options)
        store = open_store(place.url, place.options)
        first = place.save(1)
        version = store.read(layout.METADATA).version
        second = place.save(2, overwrite=True, keep_replaced=timedelta(0))
        with pytest.raises(StaleVersion):
            store.remove(layout.METADATA, version)
        with pytest.raises(SaveMismatch):
            place.delete(first)
        assert (place.load(), place.delete(second).conflict_guard) == (2, ATOMIC)
        assert azure.keys(tmp_path.name) == []
