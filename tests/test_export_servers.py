"""`export` on a real S3 server: killed at each of its requests, and watched by a reader that never sees a part."""

import os
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Self

import pytest

import dcp_engine
import export_situations as situations
import flaky_proxy
import versitygw
from dcp_engine.format.safetensors import INDEX
from rank_processes import CONTEXT
from versitygw import Gateway

NOW = timedelta(0)

pytestmark = [pytest.mark.tier("faults"), pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with versitygw.running() as gateway:
        yield gateway


class Reader:
    """Looks at one URL, which changes, again and again; whoever holds its lock is not looked at meanwhile."""

    def __init__(self, gateway: Gateway, at: str) -> None:
        self.client, self.bucket = gateway.server.client(), gateway.server.bucket
        self.at, self.lock, self.over = at, threading.Lock(), threading.Event()
        self.seen: dict[str, list[int]] = {}
        self.failed: list[Exception] = []
        self.thread = threading.Thread(target=self._watch)

    def look(self) -> int:
        """Return which model there is, having compared every value; it is noted, too."""
        with self.lock:
            at = self.at
            found = situations.held_in(self.client, self.bucket, at)
            self.seen.setdefault(at, []).append(found)
        return found

    def _watch(self) -> None:
        while not self.over.wait(0.001) and not self.failed:
            try:
                self.look()
            except Exception as error:
                self.failed.append(error)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


def test_an_export_over_an_export_may_be_killed_at_any_request(gateway: Gateway, tmp_path: Path) -> None:
    """Before a request gets there, or after it, by turns: the old model or the new one, whole; the next one succeeds.

    A reader polls all the time. A clean-up leaves the index and what it names.
    """
    options, root = gateway.server.options, tmp_path.name
    for seed in (1, 2):
        situations.save(seed, gateway.server.url(f"{root}/{seed}"), options)
    situations.export(gateway.server.url(f"{root}/1"), gateway.server.url(f"{root}/stands"), options)
    killed: list[str] = []
    ends = set()
    with flaky_proxy.before(gateway.server) as flaky, Reader(gateway, f"{root}/stands") as reader:
        for number in range(1000):
            path = f"{root}/at-{number}"
            shutil.copytree(gateway.folder / f"{root}/stands", gateway.folder / path)
            reader.at = path
            source, url = gateway.server.url(f"{root}/2"), gateway.server.url(path)
            exporter = CONTEXT.Process(
                target=situations.export_in, args=(dict(os.environ), source, url, flaky.server.options)
            )
            if not flaky_proxy.killed_at(number, exporter, flaky, killed):
                break
            ends.add(reader.look())
            situations.export(source, url, options)
            assert reader.look() == 2, killed
            with reader.lock:
                dcp_engine.clean(url, storage_options=options, older_than=NOW, keep_replaced=NOW)
            assert len(gateway.files(path)) == 1 + situations.SHARDS, killed
    print(killed)
    assert reader.failed == []
    assert ends == {1, 2}
    assert [seen for seen in reader.seen.values() if seen != sorted(seen) or not {*seen} <= {1, 2}] == []
    print(f"{sum(map(len, reader.seen.values()))} looks while {len(killed)} exports were killed")
    assert f"PUT {INDEX}" in killed
    assert sum(each.startswith("PUT model-") for each in killed) == situations.SHARDS
