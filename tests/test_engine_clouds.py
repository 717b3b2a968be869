"""The engine on Azure Blob Storage and Google Cloud Storage, in the shape of their emulators.

What the emulators can't do stands in `cloud_servers`: to Google's nobody can save, so that it gets what was saved to a
folder, and only reads are tested there.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import cloud_servers
import dcp_engine
import engine_programs as programs
import flaky_proxy
import s3_server
from cloud_servers import Azure, Cloud, Google
from cluster import builds
from dcp_contract.reasons import Reason
from dcp_engine.errors import (
    CheckpointCorrupted,
    CheckpointExists,
    CheckpointNotFound,
    EngineError,
    InvalidOption,
    StorageDenied,
    StorageUnavailable,
)
from dcp_engine.format import layout
from dcp_engine.stores.object_store import ObjectStore
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import ATOMIC, BEST_EFFORT, PART_SIZE
from flaky_proxy import FlakyProxy
from rank_group import run_ranks, values

pytestmark = [
    pytest.mark.tier("faults"),
    pytest.mark.timeout(900),
]  # the first run on a machine builds and installs the servers


@pytest.fixture(scope="module")
def azure() -> Iterator[Azure]:
    if lacking := builds.lacking(packages=["azurite"]):
        pytest.skip(lacking)
    with cloud_servers.azurite() as server:
        yield server


@pytest.fixture(scope="module")
def google() -> Iterator[Google]:
    if lacking := builds.lacking(programs=["fake-gcs-server"]):
        pytest.skip(lacking)
    with cloud_servers.fake_gcs_server() as server:
        yield server


@pytest.fixture(params=["azure", "google"])
def cloud(request: pytest.FixtureRequest) -> Cloud:
    server: Cloud = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def flaky(azure: Azure) -> Iterator[FlakyProxy]:
    with flaky_proxy.before(s3_server.S3Server(azure.endpoint, azure.bucket)) as proxy:
        yield proxy


@dataclass(frozen=True)
class Place:
    """A URL of its own for every test."""

    cloud: Cloud
    path: str
    scratch: Path

    @property
    def url(self) -> str:
        return self.cloud.url(self.path)

    @property
    def options(self) -> dict[str, Any]:
        return self.cloud.options

    def hold(self, seed: int = 1) -> None:
        """Save, from this process, 17 MiB. To Google's emulator by way of a folder."""
        if isinstance(self.cloud, Google):
            dcp_engine.save(state(seed), str(self.scratch))
            self.cloud.fill(self.path, self.scratch)
        else:
            dcp_engine.save(state(seed), self.url, storage_options=self.options, overwrite=True)

    def files(self) -> list[str]:
        return [key.removeprefix(f"{self.path}/") for key in self.cloud.keys(f"{self.path}/")]

    def key(self, ending: str) -> str:
        """Return the whole name of the one object whose name ends so."""
        (key,) = (key for key in self.cloud.keys(f"{self.path}/") if key.endswith(ending))
        return key

    def store(self) -> ObjectStore:
        store = open_store(self.url, self.options)
        assert isinstance(store, ObjectStore)
        return store


@pytest.fixture
def place(cloud: Cloud, tmp_path: Path) -> Place:
    return Place(cloud, tmp_path.name, tmp_path / "saved")


@pytest.fixture
def on_azure(azure: Azure, tmp_path: Path) -> Place:
    return Place(azure, tmp_path.name, tmp_path / "saved")


def state(seed: int) -> dict[str, Any]:
    return {"w": torch.arange(17 << 18).float() + seed, "b": torch.full((3,), float(seed)), "step": seed}


def loaded(place: Place, **more: Any) -> int:
    """Return which seed's state is there, having compared every value."""
    found: dict[str, Any] = {"w": torch.zeros(17 << 18), "b": torch.zeros(3), "step": -1}
    dcp_engine.load(found, place.url, storage_options=place.options | more)
    expected = state(found["step"])
    assert torch.equal(found["w"], expected["w"])
    assert torch.equal(found["b"], expected["b"])
    return int(found["step"])


def behind(proxy: FlakyProxy, place: Place) -> Place:
    return dataclasses.replace(place, cloud=Azure(proxy.server.endpoint))


def in_one_line(error: EngineError) -> str:
    assert "\n" not in str(error)
    assert "Debug source" not in str(error)
    return str(error)


# Reading.


def test_ranges_are_read_by_signed_urls_past_obstore(place: Place) -> None:
    place.hold()
    store, key = place.store(), place.key(".distcp")
    there = place.cloud.get(key)
    for offset, length in [(0, 1), (PART_SIZE - 5, 10), (len(there) - 3, 3)]:
        memory = bytearray(length)
        assert b"".join(store.fill(key.removeprefix(f"{place.path}/"), offset, [memoryview(memory)])) == memory
        assert memory == there[offset : offset + length]
    for offset in (len(there) - 1, len(there) + 5):
        with pytest.raises(EOFError):
            list(store.fill(key.removeprefix(f"{place.path}/"), offset, [memoryview(bytearray(9))]))
    with pytest.raises(FileNotFoundError):
        list(store.fill("nowhere", 0, [memoryview(bytearray(9))]))
    assert store._direct


def test_the_end_of_an_object_is_read_whatever_its_size(place: Place) -> None:
    store = place.store()
    for size in (0, 1, 100, 101, 10_000):
        content = bytes(number % 251 for number in range(size))
        place.cloud.put(f"{place.path}/x", content)
        blob = store.read("x", tail=100)
        assert (blob.data, blob.size) == (content[-100:], size)
        assert blob.version == store.read("x").version
    with pytest.raises(FileNotFoundError):
        store.read("y", tail=100)


def test_an_end_that_is_replaced_in_between_is_read_anew(on_azure: Place, azure: Azure, flaky: FlakyProxy) -> None:
    asked: list[str] = []

    def rule(method: str, path: str) -> None:
        asked.append(path)
        if len(asked) == 2:
            azure.put(f"{on_azure.path}/x", b"b" * 300)

    azure.put(f"{on_azure.path}/x", b"a" * 200)
    flaky.rule = rule
    blob = behind(flaky, on_azure).store().read("x", tail=100)
    assert (blob.data, blob.size, len(asked)) == (b"b" * 100, 300, 4)


def test_a_resharded_load_is_bitwise_equal(place: Place) -> None:
    if isinstance(place.cloud, Google):
        values(run_ranks(2, programs.save_large, str(place.scratch), {}, 1))
        place.cloud.fill(place.path, place.scratch)
    else:
        values(run_ranks(2, programs.save_large, place.url, place.options, 1))
    assert all(values(run_ranks(3, programs.load_large, place.url, place.options, 1)))


def test_what_is_there_is_told_and_verified(place: Place) -> None:
    place.hold()
    found = dcp_engine.find(place.url, storage_options=place.options)
    assert found is not None
    assert found == dcp_engine.preflight_load(place.url, storage_options=place.options)
    manifest = dcp_engine.inspect(place.url, storage_options=place.options)
    assert set(manifest.tensors) == {"w", "b", "step"}
    verified = dcp_engine.verify(place.url, storage_options=place.options)
    assert (verified.save_id, verified.verified) == (found.save_id, "every byte, by its crc32c")
    with pytest.raises(CheckpointExists, match=found.save_id):
        dcp_engine.preflight_save(place.url, storage_options=place.options)


def test_nothing_there(place: Place) -> None:
    assert dcp_engine.find(place.url, storage_options=place.options) is None
    with pytest.raises(CheckpointNotFound, match=re.escape(place.url)):
        dcp_engine.preflight_load(place.url, storage_options=place.options)
    with pytest.raises(CheckpointNotFound, match=re.escape(place.url)):
        loaded(place)


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("harm", "what"),
    [(flip, "does not have the digest"), (lambda data: data[: len(data) // 2], "ends before byte"), (None, "missing")],
    ids=["flipped", "truncated", "missing"],
)
def test_harm_done_in_the_store_is_named(place: Place, harm: Callable[[bytes], bytes] | None, what: str) -> None:
    place.hold()
    key = place.key(".distcp")
    if harm:
        place.cloud.put(key, harm(place.cloud.get(key)))
    else:
        place.cloud.delete(key)
    with pytest.raises(CheckpointCorrupted, match=rf"/__0_0\.distcp: .*{what}"):
        loaded(place)
    with pytest.raises(CheckpointCorrupted, match=r"/__0_0\.distcp.*It holds .*w"):
        dcp_engine.verify(place.url, storage_options=place.options)


def test_who_has_no_credentials_reads_what_is_public(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(dataclasses.replace(cloud, bucket="public"), "x", tmp_path)
    place.cloud.make_bucket(public=True)
    place.hold()
    for variable in ("AZURE_STORAGE_ACCOUNT_KEY", "GOOGLE_SERVICE_ACCOUNT_KEY"):
        monkeypatch.delenv(variable, raising=False)
    assert loaded(place, anon=True) == 1


def test_orphans_go_and_nothing_else(place: Place) -> None:
    place.hold()
    before = place.files()
    orphans = [f"{layout.data_folder(layout.new_save_id())}/{name}" for name in ("__0_0.distcp", "manifest.json")]
    for name in (*orphans, "notes/of/somebody"):
        place.cloud.put(f"{place.path}/{name}", b"x")
    assert dcp_engine.clean(place.url, storage_options=place.options) == []
    removed = dcp_engine.clean(place.url, storage_options=place.options, older_than=timedelta(0))
    assert removed == sorted(orphans)
    assert sorted(place.files()) == sorted([*before, "notes/of/somebody"])
    assert loaded(place) == 1


def test_what_is_gone_already_is_deleted(place: Place) -> None:
    for name in ("a", "c"):
        place.cloud.put(f"{place.path}/{name}", b"x")
    place.store().delete(["a", "b", "c"])
    assert place.files() == []


def test_another_spelling_of_the_protocol(google: Google, tmp_path: Path) -> None:
    place = Place(google, tmp_path.name, tmp_path / "saved")
    place.hold()
    found = dcp_engine.find(place.url.replace("gs://", "gcs://"), storage_options=place.options)
    assert found
    assert found.save_id in place.key("manifest.json")


# Saving.

SAVING = [
    "azure",
    pytest.param(
        "google", marks=pytest.mark.xfail(reason="fake-gcs-server has no XML PUT: try the newest", strict=True)
    ),
]


REPLACING = {"overwrite": True, "keep_replaced": timedelta(0)}


@pytest.mark.parametrize("cloud", SAVING, indirect=True)
def test_refused_then_replaced(place: Place) -> None:
    options = place.options | {"max_attempts": 2}
    first = values(run_ranks(2, programs.save, place.url, options, 1))[0]
    assert first.conflict_guard == ATOMIC
    assert values(run_ranks(3, programs.load, place.url, options, 1)) == [[], [], []]
    for result in run_ranks(2, programs.save, place.url, options, 2):
        assert isinstance(result.error, CheckpointExists)
        assert result.error.conflict is not None
        assert result.error.conflict.save_id == first.save_id
    assert values(run_ranks(2, programs.load, place.url, options, 1)) == [[], []]

    second = values(run_ranks(2, programs.save_args, place.url, options, 2, REPLACING))[0]
    assert values(run_ranks(2, programs.load, place.url, options, 2)) == [[], []]
    assert {name.partition("/")[0] for name in place.files()} == {".metadata", f"data-{second.save_id}"}


def save_in_parts(place: Place) -> None:
    """Save values that don't lie side by side, with too little memory to hold them: three parts."""
    saved = state(1)
    saved["w"] = programs.apart(saved["w"])
    dcp_engine.save(saved, place.url, storage_options=place.options, memory_limit=PART_SIZE)


def test_a_file_travels_in_one_request_or_in_parts(on_azure: Place, azure: Azure) -> None:
    on_azure.hold()
    assert azure.parts(on_azure.key(".distcp")) == 0
    in_parts = dataclasses.replace(on_azure, path=f"{on_azure.path}-2")
    save_in_parts(in_parts)
    assert azure.parts(in_parts.key(".distcp")) == 3
    assert loaded(in_parts) == 1


def test_an_upload_that_breaks_off_leaves_no_object(on_azure: Place) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(PART_SIZE)
        yield bytes(PART_SIZE)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        on_azure.store().write("x", chunks(), part_size=PART_SIZE, parallel=2)
    assert on_azure.files() == []


def test_of_two_savers_released_together_exactly_one_commits(on_azure: Place) -> None:
    first, second = values(run_ranks(2, programs.race, on_azure.url, on_azure.options, 20))
    for number, ends in enumerate(zip(first, second, strict=True)):
        assert sorted(end for end, _ in ends) == ["refused", "saved"], f"race {number}"
        assert len({save_id for _, save_id in ends}) == 1, "the loser names the winner"
    for number, (_, save_id) in enumerate(first):
        files = [name for name in on_azure.files() if name.startswith(f"{number}/")]
        assert {name.split("/")[1] for name in files} == {".metadata", f"data-{save_id}"}, "the loser's remains"


def test_savers_that_replace_one_another_leave_one_whole_checkpoint(on_azure: Place) -> None:
    rounds, replacing = 10, partial(programs.race, overwrite=True)
    for ends in zip(*values(run_ranks(2, replacing, on_azure.url, on_azure.options, rounds)), strict=True):
        assert {end for end, _ in ends} == {"saved"}
    for number in range(rounds):
        info = dcp_engine.verify(f"{on_azure.url}/{number}", storage_options=on_azure.options)
        files = [name for name in on_azure.files() if name.startswith(f"{number}/")]
        assert {name.split("/")[1] for name in files} == {".metadata", f"data-{info.save_id}"}


@pytest.mark.parametrize("overwrite", [False, True], ids=["create", "replace"])
def test_a_lost_answer_to_ones_own_commit_is_recognised(on_azure: Place, flaky: FlakyProxy, *, overwrite: bool) -> None:
    if overwrite:
        on_azure.hold(1)
    flaky.rule = flaky_proxy.once("lose answer", "PUT", ".metadata")
    place = behind(flaky, on_azure)
    now = timedelta(0)
    info = dcp_engine.save(state(2), place.url, storage_options=place.options, overwrite=overwrite, keep_replaced=now)
    assert flaky.faults == ["lose answer"]
    assert loaded(on_azure) == 2
    assert {name.partition("/")[0] for name in on_azure.files()} == {".metadata", f"data-{info.save_id}"}


def test_with_a_token_that_can_sign_nothing_reads_go_through_obstore(
    on_azure: Place, azure: Azure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    monkeypatch.setenv("AZURE_STORAGE_SAS_KEY", azure.sas())
    on_azure.hold()
    assert loaded(on_azure) == 1
    assert "is read through obstore, which is slower: Generic MicrosoftAzure error: Generating SAS" in caplog.text


def test_a_path_that_makes_signed_urls_invalid_is_read_through_obstore(
    azure: Azure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(azure, f"{tmp_path.name}/two words", tmp_path)
    place.hold()
    assert loaded(place) == 1
    assert "the store answered 403" in caplog.text


# What can't be.


def attempts(place: Place) -> Iterator[Callable[[], object]]:
    yield lambda: dcp_engine.find(place.url, storage_options=place.options)
    yield lambda: dcp_engine.preflight_save(place.url, storage_options=place.options)
    yield lambda: dcp_engine.save(state(1), place.url, storage_options=place.options)
    yield lambda: loaded(place)


def test_a_container_that_is_not_there_is_named(azure: Azure, tmp_path: Path) -> None:
    place = Place(Azure(azure.endpoint, "nowhere"), "x", tmp_path)
    for attempt in attempts(place):
        with pytest.raises(StorageUnavailable, match="ContainerNotFound") as caught:
            attempt()
        in_one_line(caught.value)
    with pytest.raises(StorageUnavailable, match="ContainerNotFound"):
        list(place.store().fill("x", 0, [memoryview(bytearray(9))]))


def test_a_wrong_key_is_denied(on_azure: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=")
    for attempt in attempts(on_azure):
        with pytest.raises(EngineError) as caught:
            attempt()
        assert caught.value.reason is Reason.STORAGE_DENIED
        assert on_azure.path in in_one_line(caught.value)


@pytest.mark.parametrize(
    ("url", "variable", "value", "error"),
    [
        ("az://container/x", "AZURE_STORAGE_ACCOUNT_KEY", "not base64", StorageDenied),
        ("az://container/x", "AZURE_STORAGE_ACCOUNT_NAME", "", InvalidOption),
        ("gs://bucket/x", "GOOGLE_SERVICE_ACCOUNT_KEY", "not JSON", StorageDenied),
    ],
)
def test_credentials_that_can_not_be(
    monkeypatch: pytest.MonkeyPatch, url: str, variable: str, value: str, error: type[EngineError]
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", cloud_servers.ACCOUNT)
    if value:
        monkeypatch.setenv(variable, value)
    else:
        monkeypatch.delenv(variable)
    with pytest.raises(error) as caught:
        open_store(url)
    in_one_line(caught.value)


# Google's XML API is S3's but for conditions and signatures.


def test_uploads_in_parts_to_google_on_an_s3_server(google: Google, tmp_path: Path) -> None:
    with s3_server.running() as server:
        place = Place(Google(server.endpoint), "x", tmp_path)
        save_in_parts(place)
        assert loaded(place) == 1
        found = dcp_engine.verify(place.url, storage_options=place.options)
        assert found.conflict_guard == BEST_EFFORT, "the server does not know Google's condition"
        assert len(server.keys("x/")) == 4
        assert server.uploads() == []
