"""`copy` on a real S3 server: what a killed copy and its repetition move, in how much memory, and who copies."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import torch

import copy_programs
import dcp_engine
import flaky_proxy
import versitygw
from dcp_engine.errors import CheckpointCorrupted
from rank_processes import CONTEXT
from versitygw import Gateway

pytestmark = [pytest.mark.tier("faults"), pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]

MEBI: Final = 1 << 20
LIMIT: Final = 96 * MEBI


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A server of its own, whose counts no other test adds to."""
    with versitygw.running() as gateway:
        yield gateway


@pytest.fixture
def path(tmp_path: Path) -> str:
    return re.sub(r"[^a-zA-Z0-9-]", "-", tmp_path.name)


def saved_to(url: str, options: dict[str, Any] | None, *, tensors: int, each: int) -> str:
    state = {f"w{number}": torch.randn(each // 4) for number in range(tensors)}
    return dcp_engine.save(state, url, storage_options=options, no_dist=True, step=5).save_id


def test_a_copy_killed_half_way_moves_all_once_and_what_was_in_flight(
    gateway: Gateway, path: str, tmp_path: Path
) -> None:
    """By what the server has received: the data once, and at most what the memory holds a second time."""
    options = gateway.server.options
    saved_to(gateway.server.url(path), options, tensors=16, each=32 * MEBI)
    source = tmp_path / "source"
    dcp_engine.copy(gateway.server.url(path), source, source_options=options)
    size = sum(file.size for file in dcp_engine.inspect(source).files)
    assert size > 512 * MEBI
    url = gateway.server.url(f"{path}-copy")
    before = gateway.bytes_taken()
    given = (dict(os.environ), str(source), None, url, options, "mid-part", 32, LIMIT)
    killed = CONTEXT.Process(target=copy_programs.copy_until, args=given)
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    first = gateway.bytes_taken() - before
    assert dcp_engine.find(url, storage_options=options) is None
    info = dcp_engine.copy(source, url, storage_options=options, memory_limit=LIMIT)
    moved = gateway.bytes_taken() - before
    print(f"{size} bytes; {first} until the kill, {moved} in all: {moved / size:.3f} times; {info.verified}")
    assert "there already, by crc32c" in info.verified
    assert size < moved < size + LIMIT
    assert dcp_engine.verify(url, storage_options=options).save_id == info.save_id


@pytest.mark.parametrize("within_the_bucket", [True, False])
def test_a_copy_may_be_killed_at_any_request(
    gateway: Gateway, path: str, tmp_path: Path, *, within_the_bucket: bool
) -> None:
    """Before a request gets there, or after it, by turns: there is the whole checkpoint, or none."""
    source = gateway.server.url(path) if within_the_bucket else str(tmp_path / "source")
    saved_to(source, gateway.server.options if within_the_bucket else None, tensors=2, each=MEBI)
    killed: list[str] = []
    with flaky_proxy.before(gateway.server) as flaky:
        given = flaky.server.options if within_the_bucket else None
        direct = gateway.server.options if within_the_bucket else None
        for number in range(100):
            url = gateway.server.url(f"{path}-{number}")
            process = CONTEXT.Process(
                target=copy_programs.copy_in, args=(dict(os.environ), source, given, url, flaky.server.options)
            )
            seen: list[str] = []

            def rule(
                method: str, of: str, number: int = number, process: Any = process, seen: list[str] = seen
            ) -> flaky_proxy.Fault | None:
                seen.append(f"{method} {of.rpartition('/')[2].partition('?')[0]}")
                if len(seen) != number + 1:
                    return None
                os.kill(process.pid, signal.SIGKILL)
                return "lose answer" if number % 2 else "reset"

            flaky.rule = rule
            process.start()
            process.join(60)
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL, seen
            killed.append(seen[number])
            if dcp_engine.find(url, storage_options=gateway.server.options):
                dcp_engine.verify(url, storage_options=gateway.server.options)
            dcp_engine.copy(source, url, source_options=direct, storage_options=gateway.server.options)
            dcp_engine.verify(url, storage_options=gateway.server.options)
    assert process.exitcode == 0
    assert "PUT .metadata" in killed
    print(killed)


def test_within_a_bucket_no_byte_passes_through_here(gateway: Gateway, path: str) -> None:
    options = gateway.server.options
    url, there = gateway.server.url(path), gateway.server.url(f"{path}-copy")
    save_id = saved_to(url, options, tensors=4, each=8 * MEBI)
    before = gateway.bytes_sent()
    info = dcp_engine.copy(url, there, source_options=options, storage_options=options)
    assert re.fullmatch(r"\d files? by the crc32c that the store answered", info.verified)
    assert gateway.bytes_sent() - before < MEBI
    dcp_engine.verify(there, storage_options=options)
    again = dcp_engine.copy(url, there, source_options=options, storage_options=options)
    assert re.fullmatch(r"\d files? there already, by crc32c", again.verified)
    file = next(iter(dcp_engine.inspect(url, storage_options=options).files)).path
    place = gateway.folder / path / file
    data = bytearray(place.read_bytes())
    data[200_000] ^= 1
    place.write_bytes(data)
    with pytest.raises(CheckpointCorrupted, match=rf"{file}: the block at byte 196608 "):
        dcp_engine.copy(url, gateway.server.url(f"{path}-bad"), source_options=options, storage_options=options)
    assert gateway.files(f"{path}-bad") == []
    assert save_id in file


@pytest.mark.parametrize("limit", [64 * MEBI, 256 * MEBI])
def test_a_copy_takes_no_more_memory_than_it_may(gateway: Gateway, path: str, limit: int) -> None:
    """Of 512 MiB, in files of one request and in one that goes in parts; beside Python and its libraries."""
    options = gateway.server.options
    url = gateway.server.url(path)
    state: dict[str, Any] = {f"w{number}": torch.zeros(4 * MEBI) for number in range(16)}
    state["large"] = torch.zeros(64 * MEBI)
    dcp_engine.save(state, url, storage_options=options, no_dist=True)
    del state
    # Stores that are reached otherwise have no copy within the bucket.
    given = [url, options, gateway.server.url(f"{path}-copy"), {**options, "max_attempts": 5}, limit]
    program = [sys.executable, copy_programs.__file__, json.dumps(given)]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=120)
    peak, torch_loaded = json.loads(done.stdout)
    print(f"peak {peak / MEBI:.0f} MiB with a limit of {limit / MEBI:.0f} MiB")
    assert not torch_loaded
    assert peak < limit + 100 * MEBI
