"""The engine's pure parts: framing, digests, ranges, manifest, trailer, the unpickler, the errors."""

import dataclasses
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy._core import multiarray
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult

from dcp_contract.checkpoint_info import Conflict, Origin
from dcp_contract.reasons import Reason
from dcp_engine import errors
from dcp_engine.commit import snapshot
from dcp_engine.errors import CheckpointCorrupted
from dcp_engine.format import digest, layout, metadata, torch_zip_read, torch_zip_write
from dcp_engine.format.manifest import UNKNOWN, Chunk, DataFile, Manifest, Tensor
from dcp_engine.stores import object_store, options
from dcp_engine.stores.object_store import ObjectStore
from dcp_engine.stores.opening import open_store
from dcp_engine.transfer import decode, file_plan, ranges
from dcp_engine.transfer.payload import PIECE, Payload, rows
from dcp_engine.translate import translate

pytestmark = pytest.mark.tier("ranks")

MEBI = 1 << 20
SHAPES = [(), (1,), (5,), (0, 3), (4, 6), (2, 3, 4)]
DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool,
    torch.complex64, torch.float8_e4m3fn, torch.uint16, torch.uint64,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_loads_what_we_frame(dtype: torch.dtype) -> None:
    for shape in SHAPES:
        values = torch.randint(0, 2, shape).to(dtype)
        framed = torch_zip_write.frame(dtype, values.shape)
        payload = values.reshape(-1).view(torch.uint8).numpy().tobytes() if values.numel() else b""
        loaded = torch.load(io.BytesIO(framed.head + payload + framed.tail), weights_only=True)
        assert (loaded.dtype, loaded.shape, loaded.stride()) == (dtype, values.shape, values.stride())
        assert loaded.reshape(-1).view(torch.uint8).equal(values.reshape(-1).view(torch.uint8))
        assert len(framed.head) % 64 == 0


def test_the_frame_of_a_tensor_beyond_4_gib_is_zip64() -> None:
    """Without its payload: a sparse file stands for it."""
    framed = torch_zip_write.frame(torch.uint8, torch.Size([5 << 30]))
    with io.BytesIO() as directory:
        directory.write(framed.tail)
        members = _central_directory(framed, 5 << 30)
    assert members["archive/data/0"] == (5 << 30, len(framed.head))
    assert members["archive/version"][1] > 5 << 30


@pytest.mark.parametrize("count", [65_530, 65_534, 65_535, 65_536, 70_000])
def test_any_number_of_members_can_be_counted(count: int) -> None:
    """As the entries of a large mixture of experts with its optimizer; our own reader agrees with others."""
    data = bytearray()
    members: list[torch_zip_write.ZipMember] = []
    for number in range(count):
        torch_zip_write.append(data, members, f"data/{number}", b"", base=0)
    data += torch_zip_write.directory(members, len(data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert len(archive.namelist()) == count
    found, _, _ = torch_zip_read.directory_in(memoryview(data)[-torch_zip_read.TAIL :], len(data))
    assert found == count


def _central_directory(framed: torch_zip_write.Frame, payload: int) -> dict[str, tuple[int, int]]:
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.write(framed.head)
        file.seek(len(framed.head) + payload)
        file.write(framed.tail)
        with zipfile.ZipFile(file) as archive_file:
            places = {}
            for member in archive_file.infolist():
                with archive_file.open(member) as opened:
                    assert opened.readable()
                # Where the local header ends and the data begin.
                file.seek(member.header_offset + 26)
                name, extra = int.from_bytes(file.read(2), "little"), int.from_bytes(file.read(2), "little")
                places[member.filename] = (member.file_size, member.header_offset + 30 + name + extra)
            return places


@given(
    size=st.sampled_from([0, 1, digest.BLOCK - 1, digest.BLOCK, digest.BLOCK + 1, 3 * digest.BLOCK + 77]),
    cuts=st.lists(st.integers(1, 2 * digest.BLOCK), max_size=8),
)
@settings(deadline=None, max_examples=40)
def test_the_fold_of_block_digests_is_the_plain_crc32c(size: int, cuts: list[int]) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    taken = digest.BlockDigest()
    blocks: list[int] = []
    at = 0
    for cut in [*cuts, size]:
        blocks += taken.update(data[at : at + cut])
        at = min(size, at + cut)
    blocks += taken.rest()
    assert len(blocks) == -(-size // digest.BLOCK)
    assert digest.fold(blocks, size) == google_crc32c.value(data.tobytes())
    assert digest.unpack(digest.pack(blocks)).tolist() == blocks


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_split_boxes_cover_the_box_within_the_limit(data: st.DataObject) -> None:
    chunk = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    offsets = tuple(data.draw(st.integers(0, size - 1)) for size in chunk)
    sizes = tuple(data.draw(st.integers(1, size - at)) for size, at in zip(chunk, offsets, strict=True))
    limit = data.draw(st.integers(1, 200))
    values = torch.arange(int(np.prod(chunk))).reshape(chunk)
    raw = values.reshape(-1).numpy()
    box = ranges.Box(offsets, sizes, chunk, values.itemsize)
    expected = values[tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))]
    filled = torch.full(sizes, -1)
    for part, place in box.split(limit):
        start, stop = part.span
        assert stop - start <= max(limit, values.itemsize)
        flat = torch.from_numpy(raw[start // 8 : stop // 8].copy())
        view = flat.as_strided(part.sizes, part.strides)
        filled[tuple(slice(at, at + size) for at, size in zip(place, part.sizes, strict=True))] = view
    assert filled.equal(expected)
    assert box.contiguous == expected.is_contiguous() or not expected.numel()


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40 << 20), st.integers(1, 3 << 20)), max_size=30),
    st.sampled_from([0, digest.BLOCK]),
)
@settings(deadline=None, max_examples=100)
def test_requests_serve_every_read_once(wanted: list[tuple[str, int, int]], block: int) -> None:
    size = 50 << 20
    reads = [ranges.ByteRange(file, start, start + length, None) for file, start, length in wanted]
    found = ranges.requests(reads, block=block, sizes={"a": size, "b": size})
    served = [read for request in found for read in request.reads]
    assert sorted(served, key=id) == sorted(reads, key=id)
    for request in found:
        at = request.start
        for read in request.reads:
            assert read.file == request.file
            assert at <= read.start
            at = read.stop
        assert at <= request.stop <= size
        if block:
            assert request.start % block == 0
            assert request.stop % block == 0 or request.stop == size


def test_reads_in_a_row_are_fetched_without_waste() -> None:
    target = np.empty(100 << 20, np.uint8)
    found = ranges.requests(
        list(ranges.cut("f", 512, 512 + len(target), target)), block=digest.BLOCK, sizes={"f": 1 << 30}
    )
    fetched = sum(request.stop - request.start for request in found)
    assert fetched - len(target) <= 2 * digest.BLOCK
    assert max(request.stop - request.start for request in found) <= ranges.WINDOW + digest.BLOCK


def test_rows_cut_a_tensor_in_its_own_order() -> None:
    values = torch.arange(5 * 7 * 3).reshape(5, 7, 3)
    for limit in (8, 50, 200, 10_000):
        parts = list(rows(values, limit))
        assert torch.cat([part.reshape(-1) for part in parts]).equal(values.reshape(-1))
        assert all(part.nbytes <= limit for part in parts)


def test_pieces_stay_as_they_are_while_somebody_refers_to_them() -> None:
    """An upload sends parts from this very memory, long after the next piece was asked for."""
    values = torch.arange(3 * (PIECE // 4) + 5).reshape(-1, 7 if (3 * (PIECE // 4) + 5) % 7 == 0 else 1)
    for tensor in (values, values.repeat(1, 2)[:, :1], torch.stack([values, values], -1)[..., 1]):
        prepared = Payload(0, 0, tensor, torch_zip_write.Frame(b"head", b"tail"))
        pieces = list(prepared.pieces())
        payload = b"".join(piece.tobytes() for piece in pieces[1:-1])
        assert payload == tensor.contiguous().numpy().tobytes()


def test_many_small_copies_take_no_mapping_each() -> None:
    """The kernel allows a process some 65,000."""
    before = _mappings()
    held = [
        piece
        for _ in range(300)
        for piece in Payload(0, 0, torch.ones(8, 8).t(), torch_zip_write.Frame(b"", b"")).pieces()
    ]
    assert _mappings() - before < 100
    assert len(held) == 900


def _mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def test_a_manifest_survives_its_json() -> None:
    chunk = Chunk((0, 4), (2, 4), 0, 128, 4096, 512)
    path = layout.data_path("0" * 32, 0, 0)
    manifest = Manifest(
        save_id="0" * 32,
        url="s3://b/k",
        origin=Origin(namespace="n", name="x", uid="u"),
        step=3,
        world_size=2,
        block_size=layout.BLOCK,
        files=(DataFile(path, 4224, 77, 0),),
        tensors={"w": Tensor("float32", (2, 8), (chunk,), ("w", 3)), "e": Tensor(None, (), ())},
    )
    again = Manifest.decode(manifest.encode(), "s3://b/k", save_id=manifest.save_id)
    assert again == manifest
    assert again.encode() == manifest.encode()
    assert manifest.tensors_in(path, 0, 128) == []
    assert manifest.tensors_in(path, 0, 129) == ["w"]


@pytest.mark.adversary
def test_another_block_size_is_named() -> None:
    """E-Minor: its digests would be those of other bytes."""
    text = Manifest(save_id="0" * 32, block_size=2 * layout.BLOCK).encode()
    with pytest.raises(ValueError, match=rf"blockSize {2 * layout.BLOCK} is not the {layout.BLOCK} known here"):
        Manifest.decode(text, "url", save_id="0" * 32)


@pytest.mark.parametrize("name", ["a.b", '"chunks":[1]', '\\"chunks":[1]', "chunks", 'x","chunks":[[', "ü \\ {}"])
def test_a_manifest_takes_any_name(name: str) -> None:
    chunk = Chunk((0,), (4,), 0, 0, 16, None)
    tensors = {name: Tensor("float32", (4,), (chunk,)), "chunks": Tensor(None, (), ())}
    encoded = Manifest(files=(DataFile("__0_0.distcp", UNKNOWN),), tensors=tensors).encode()
    assert list(json.loads(encoded)["tensors"]) == list(tensors)
    for text in (encoded, json.dumps(json.loads(encoded), indent=2).encode()):
        assert Manifest.decode(text).tensors == tensors


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', "null", '{"format":1,"saveId":3}'])
def test_what_is_no_manifest_says_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"manifest|Expecting"):
        Manifest.decode(text.encode())


def test_the_trailer_stands_behind_the_pickle_and_is_found_in_its_end() -> None:
    trailer = layout.Trailer(save_id := layout.new_save_id(), layout.manifest_path(save_id), "ab" * 32)
    data = pickle.dumps({"x": "\n{"}) + trailer.encode()
    assert pickle.loads(data) == {"x": "\n{"}
    assert layout.parse_trailer(data[-layout.TAIL_BYTES :]) == (trailer, len(trailer.encode()))


def test_without_a_trailer_it_is_stock_dcps() -> None:
    assert layout.parse_trailer(pickle.dumps(1)) == (None, 0)


@pytest.mark.adversary
@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"\n{}\n",
        b"\n{\n",
        b'\n{"dcpOperator":{"saveId":"../../etc","manifest":"data-../../etc/manifest.json","sha256":""}}\n',
        b'\n{"dcpOperator":{"saveId":"' + b"0" * 32 + b'","manifest":"elsewhere.json","sha256":""}}\n',
    ],
)
def test_what_is_neither_a_trailer_nor_a_pickles_end_is_damage(line: bytes) -> None:
    with pytest.raises(CheckpointCorrupted, match="cut off or changed"):
        layout.parse_trailer(pickle.dumps(1) + line)


@pytest.mark.adversary
def test_no_damage_makes_one_of_our_saves_pass_for_a_stock_one(tmp_path: Path) -> None:
    save_id = layout.new_save_id()
    pickled = pickle.dumps([layout.data_path(save_id, 0, 0)])
    trailer = layout.Trailer(save_id, layout.manifest_path(save_id), "ab" * 32)
    whole = pickled + trailer.encode()
    cut = [whole[:end] for end in range(len(pickled), len(whole))]
    flipped = [
        whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
        for at in range(len(pickled), len(whole))
        for bit in range(8)
    ]
    for damaged in cut + flipped:
        (tmp_path / layout.METADATA).write_bytes(damaged)
        with pytest.raises(CheckpointCorrupted):  # the manifest is not there, or has another digest
            snapshot.read(open_store(str(tmp_path)))


class Made:
    """Is pickled as whatever is wanted."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def _stream(value: object) -> io.BytesIO:
    stream = io.BytesIO()
    torch.save(value, stream)
    stream.seek(0)
    return stream


def _type(code: str, *, fields: Any = None, flags: int = 0, alignment: int = -1, size: int = -1) -> Made:
    names = tuple(fields) if fields else None
    return Made(np.dtype, (code, False, True), (3, "<", None, names, fields, size, alignment, flags))


def _array(kind: Any, data: Any, shape: tuple[int, ...] = (1,), begin: tuple[int, ...] = (0,)) -> Made:
    return Made(multiarray._reconstruct, (np.ndarray, begin, b"b"), (1, shape, kind, False, data))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(np.arange(6.0).reshape(2, 3).T, id="by columns"),
        pytest.param(np.array([], dtype=np.int8), id="empty"),
        pytest.param(np.array(1 + 2j), id="no dimension"),
        pytest.param(np.array(["a", "bcd"]), id="text"),
        pytest.param(np.array([b"a"]), id="bytes"),
        pytest.param(np.array(["2026-01-01", "NaT"], dtype="M8[ms]"), id="times"),
        pytest.param(np.arange(3, dtype=">u4"), id="of another machine"),
        pytest.param(np.float32(0.5), id="scalar"),
        pytest.param(np.datetime64("2026-01-01T00:00"), id="a time"),
        pytest.param(np.bool_(1), id="bool"),
        pytest.param(np.str_("word"), id="a word"),
        pytest.param(np.dtype("f2"), id="type"),
    ],
)
def test_plain_data_of_numpy_are_read(value: Any) -> None:
    decode.decode("x", "f", _stream({"x": [value]}))


_OBJECT = Made(np.dtype, ("O",))


@pytest.mark.adversary
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(np.array([{}], dtype=object), id="objects"),
        pytest.param(np.zeros(1, dtype=[("a", "i4")]), id="fields"),
        pytest.param(_array(_type("V8", fields={"a": (_OBJECT, 0)}), b"AAAAAAAA"), id="hidden objects"),
        pytest.param(_array(_type("f8", fields={"a": (_type("f4"), 0)}), b"AAAAAAAA"), id="hidden fields"),
        pytest.param(_array(_type("f8", flags=63), b"AAAAAAAA"), id="flags of objects"),
        pytest.param(_array(_type("f8", alignment=0), b"AAAAAAAA"), id="alignment"),
        pytest.param(_array(_type("S4", size=400), b"AAAA"), id="size"),
        pytest.param(_array(_type("f8"), b"AAAA"), id="too few bytes"),
        pytest.param(_array(_type("f8"), ["AAAAAAAA"]), id="list"),
        pytest.param(_array(_type("f8"), b"AAAAAAAA", (-1, -1)), id="negative shape"),
        pytest.param(_array(_type("f8"), b"AAAAAAAA", begin=(1 << 40,)), id="memory"),
        pytest.param(Made(multiarray.scalar, (np.dtype("f8"), b"AAAA")), id="scalar of too few bytes"),
        pytest.param(Made(np.ndarray, ((1 << 40,),)), id="called"),
    ],
)
def test_what_numpy_would_trust_is_refused(value: Any) -> None:
    with pytest.raises((decode.ClassesRefused, CheckpointCorrupted)):
        decode.decode("x", "f", _stream([value]))


def test_the_metadata_is_what_stock_readers_know_with_what_is_equal_written_once() -> None:
    stored: dict[str, STORAGE_TYPES] = {"b": BytesStorageMetadata()}
    found = Metadata(stored)
    written = [WriteResult(MetadataIndex("b"), 9, metadata.Written("__0_1.distcp", 0, 9))]
    for name in "vw":
        chunks = [ChunkStorageMetadata(torch.Size([at, 0]), torch.Size([2, 4])) for at in range(0, 400, 2)]
        stored[name] = TensorStorageMetadata(TensorProperties(torch.bfloat16), torch.Size([400, 4]), chunks)
        written += [
            WriteResult(
                MetadataIndex(name, chunk.offsets, number), 16, metadata.Written("__0_0.distcp", 0, 16, payload=8)
            )
            for number, chunk in enumerate(chunks)
        ]
    metadata.complete(found, [written], StorageMeta("s3://b/k"))
    stock = dataclasses.replace(
        found,
        storage_data={
            each.index: _StorageInfo(each.storage_data.relative_path, 0, each.size_in_bytes) for each in written
        },
    )
    pickled = metadata.dump(found)
    assert pickle.loads(pickled) == stock
    assert len(pickled) < len(pickle.dumps(stock)) / 2
    again = pickle.loads(pickled).storage_data
    assert [index.index for index in again] == [None, *range(200), *range(200)]
    assert {type(info) for info in again.values()} == {_StorageInfo}


def test_files_are_split_at_the_limit() -> None:
    assert list(file_plan.split([("a", 3), ("b", 3), ("c", 9), ("d", 1)], limit=6)) == [["a", "b"], ["c"], ["d"]]


@pytest.mark.parametrize(
    ("sizes", "files", "largest"),
    [
        ([], 1, 0),
        ([5], 1, 5),
        ([100] * 70_000, 1, 7_000_000),  # nothing is gained by more requests
        ([20 * MEBI], 1, 20 * MEBI),  # a tensor is never divided
        ([MEBI] * 40, 5, 8 * MEBI),
        ([MEBI] * 300, 8, 38 * MEBI),  # one round, not one round and a ninth file
        ([32 * MEBI] * 16 + [4096] * 16, 16, 32 * MEBI + 4096),
        ([64 * MEBI] * 16 + [4096] * 16, 16, 64 * MEBI + 4096),
        ([40 * MEBI] * 50, 50, 40 * MEBI),
        ([32 * MEBI] * 64, 64, 32 * MEBI),
        ([32 * MEBI] * 72, 8, 288 * MEBI),  # few large files, in parts
    ],
)
def test_a_rank_divides_what_it_writes_to_an_object_store(sizes: list[int], files: int, largest: int) -> None:
    count = file_plan.file_count(sizes, at_once=8, best=32 * MEBI)
    assert count == files
    groups = file_plan.spread(((size, size) for size in sizes), count)
    assert max((sum(size for _, size in group) for group in groups), default=0) == largest


def test_a_rank_writes_to_a_disk_as_many_files_as_that_takes_at_once() -> None:
    assert file_plan.file_count([400 * MEBI] * 100, at_once=2, best=layout.FILE_LIMIT) == 2
    assert file_plan.file_count([MEBI] * 9, at_once=2, best=layout.FILE_LIMIT) == 1


def test_only_what_lies_as_it_is_saved_needs_no_memory() -> None:
    tensor = torch.zeros(4, 5)
    found = [
        Payload(one.nbytes, 0, one, torch_zip_write.Frame(b"", b"")).in_place
        for one in (tensor, tensor[1:], tensor.t())
    ]
    assert found == [True, True, False]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), Reason.STORAGE_FULL),
        (PermissionError(13, "denied"), Reason.STORAGE_DENIED),
        (ConnectionRefusedError(111, "refused"), Reason.STORAGE_UNAVAILABLE),
        (TimeoutError("too slow"), Reason.STORAGE_UNAVAILABLE),
        (OSError(5, "Input/output error"), Reason.STORAGE_UNAVAILABLE),
        (RuntimeError("<Code>SignatureDoesNotMatch</Code>"), Reason.STORAGE_DENIED),
        (FileNotFoundError("<Code>NoSuchBucket</Code>"), Reason.STORAGE_UNAVAILABLE),
        (FileNotFoundError("<Code>ContainerNotFound</Code>"), Reason.STORAGE_UNAVAILABLE),
        (RuntimeError("Generic MicrosoftAzure error: Invalid Access Key: Invalid symbol"), Reason.STORAGE_DENIED),
        (RuntimeError("Generic GCS error: GCP credential error: Unable to decode"), Reason.STORAGE_DENIED),
        (RuntimeError("Generic MicrosoftAzure error: Account must be specified"), Reason.INVALID_SPEC),
        (RuntimeError("Connection closed by peer"), Reason.WORKER_LOST),
        (KeyError("x"), Reason.RANK_FAILED),
    ],
)
def test_foreign_errors_become_reasons(error: Exception, reason: Reason) -> None:
    known = translate(error)
    assert known.reason is reason
    assert known.__cause__ is error


def test_errors_cross_between_ranks_whole() -> None:
    error = errors.CheckpointExists(
        "s3://b/k", Conflict(save_id="abc", origin=Origin(namespace="n", name="x", uid="u"))
    )
    error.rank = 3
    error.failures = (error,)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.CheckpointExists
    assert (str(again), again.rank, again.conflict) == (str(error), 3, error.conflict)
    assert again.failures == (again,)
    assert "Checkpoint n/x (uid u)" in str(again)


@pytest.mark.parametrize(
    ("url", "given_options"),
    [
        ("s3://bucket/key", {"proxy_url": "http://p:1", "requester_pays": True, "server_side_encryption": "AES256"}),
        (
            "s3://bucket/key",
            {"server_side_encryption": "aws:kms", "sse_kms_key_id": "k", "addressing_style": "virtual"},
        ),
        (
            "s3://bucket/key",
            {"upload_checksum": "sha256"},
        ),
        ("gs://bucket/key", {"endpoint_url": "http://localhost:4443", "project": "p"}),
        ("gcs://bucket/key", {}),
        ("az://container/key", {"account_name": "a", "endpoint_url": "http://localhost:10000/a", "max_attempts": 2}),
        ("abfs://container@account.dfs.core.windows.net/key", {"connect_timeout": 3.0}),
    ],
)
def test_every_option_is_one_that_obstore_knows(url: str, given_options: dict[str, Any]) -> None:
    assert open_store(url, given_options | {"anon": True}).url == url


@pytest.mark.parametrize(
    ("url", "one", "other"),
    [
        ("s3://b/k", {}, {"endpoint_url": "http://localhost:9000"}),
        ("gs://b/k", {}, {"endpoint_url": "http://localhost:4443"}),
        ("az://b/k", {"account_name": "a"}, {"account_name": "b"}),
    ],
)
def test_buckets_of_one_name_have_guards_of_their_own(url: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    def bucket(given: dict[str, Any]) -> tuple[str, ...]:
        store = open_store(url, {"anon": True, **given})
        assert isinstance(store, ObjectStore)
        return store.bucket

    assert bucket(one) == bucket(one) != bucket(other)


@pytest.mark.parametrize(
    ("url", "resolved"),
    [
        ("s3://b/a//c", "s3://b/a/c"),
        ("s3://b//a", "s3://b/a"),
        ("s3://b/./a", "s3://b/a"),
        ("gs://b/a/../c/", "gs://b/c"),
        ("az://b/..", "az://b/"),
        ("file:///tmp/../x", "file:///x"),
    ],
)
def test_a_url_with_segments_that_libraries_take_differently_is_refused(url: str, resolved: str) -> None:
    with pytest.raises(errors.InvalidOption) as caught:
        open_store(url, {} if url.startswith("file") else {"anon": True})
    assert str(caught.value) == f"url: {url} has a segment '.', '..' or an empty one; write {resolved}"


@pytest.mark.parametrize("url", ["s3://b", "s3://b/", "s3://b/a.b/..c/d/", "file:///tmp/x"])
def test_other_urls_are_taken(url: str) -> None:
    assert options.place_of(url)[1] in {"", "a.b/..c/d", "tmp/x"}


def test_options_are_translated_and_unknown_ones_refused() -> None:
    given_options = {"endpoint_url": "http://localhost:9000", "region": "eu-1", "read_timeout": 7, "max_attempts": 3}
    translated = options.for_obstore("s3", given_options)
    assert translated.config["endpoint"] == "http://localhost:9000"
    assert translated.config["region"] == "eu-1"
    assert translated.config["virtual_hosted_style_request"] is False
    assert translated.client["allow_http"] is True
    assert translated.network.read_seconds == 7
    assert translated.attempts == 3
    assert translated.no_retry["max_retries"] == 0
    assert translated.config["checksum_algorithm"] == "crc64nvme"
    assert "checksum_algorithm" not in options.for_obstore("s3", {"upload_checksum": "none"}).config
    with pytest.raises(errors.InvalidOption, match="endpoint_url"):
        options.check("s3", {"endpoint": "x"})
    with pytest.raises(errors.InvalidOption, match="chained"):
        options.protocol_of("simplecache::s3://b/k")


@pytest.mark.parametrize(
    ("text", "beyond"),
    [
        ("Server returned non-2xx status code: 416 Range Not Satisfiable: ", True),
        ("<Error><Code>InvalidRange</Code>", True),
        ("GET http://127.0.0.1:4160/b/step-4160/data in 1.416s - Server returned: 503 Service Unavailable", False),
    ],
)
def test_a_range_beyond_the_end_is_told_by_the_stores_words_alone(text: str, beyond: bool) -> None:  # noqa: FBT001 - a table
    assert bool(object_store._BEYOND.search(text)) is beyond
