"""`export`, killed and watched: a reader finds the model before or the new one, whole, and little memory is taken."""

import errno
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final

import pytest

import export_situations as situations
import file_steps
from dcp_engine.errors import EngineError
from rank_processes import CONTEXT

pytestmark = [pytest.mark.tier("ranks"), pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Checkpoints of two seeds."""
    return situations.saved_in(tmp_path_factory.mktemp("saved"))


def test_a_reader_never_sees_a_part(tmp_path: Path, saved: dict[int, str]) -> None:
    """Whenever it looks: nothing, or a whole model; shards that go between its two reads make it look again."""
    folder, over = tmp_path / "hf", threading.Event()
    seen: list[int] = []

    def poll() -> None:
        while not over.is_set():
            try:
                seen.append(situations.held(folder))
            except FileNotFoundError:
                seen.append(-1)

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        for round_ in range(30):
            situations.export(saved[round_ % 2 + 1], str(folder))
    finally:
        over.set()
        reader.join()
    assert {1, 2} <= set(seen) <= {-1, 0, 1, 2}
    assert 0 not in seen[seen.index(1) :]


def failed(source: str, url: Path, number: int) -> int | None:
    """Export over a disk that is full at the n-th step; return what is there after an error that says so for sure."""
    with file_steps.counted(url, number, file_steps.fails(errno.ENOSPC)):
        try:
            situations.export(source, str(url))
        except EngineError as error:
            return None if error.commit_unknown else situations.held(url)
    return None


@pytest.mark.parametrize("before", [0, 1])
def test_whatever_step_an_export_is_killed_at_the_model_is_the_old_or_the_new_one(
    tmp_path: Path, saved: dict[int, str], before: int
) -> None:
    """And the next export succeeds. By turns the step fails in place of a kill: then nothing is left."""
    stands = tmp_path / "stands"
    stands.mkdir()
    if before:
        situations.export(saved[1], str(stands))
    with file_steps.counted(url := Path(shutil.copytree(stands, tmp_path / "counted"))) as steps:
        situations.export(saved[2], str(url))
    ends = set()
    for number in range(len(steps)):
        url = Path(shutil.copytree(stands, tmp_path / str(number)))
        if number % 2:
            process = CONTEXT.Process(target=situations.die_at, args=(saved[2], url, number))
            process.start()
            process.join(60)
            assert process.exitcode in {0, -signal.SIGKILL}
        else:
            assert failed(saved[2], url, number) in {None, before}
        ends.add(situations.held(url))
        situations.export(saved[2], str(url))
        assert situations.held(url) == 2
        shutil.rmtree(url)
    assert ends == {before, 2}


@pytest.mark.adversary
@pytest.mark.parametrize("before", [0, 1])
def test_whatever_step_ctrl_c_comes_after_the_model_is_the_old_or_the_new_one(
    tmp_path: Path, saved: dict[int, str], before: int
) -> None:
    """Nobody waits for an answer then: the index may stand already, and needs its shards."""
    stands = tmp_path / "stands"
    stands.mkdir()
    if before:
        situations.export(saved[1], str(stands))
    with file_steps.counted(url := Path(shutil.copytree(stands, tmp_path / "counted"))) as steps:
        situations.export(saved[2], str(url))
    ends = set()
    for number, step in enumerate(steps):
        if not step.startswith(("link", "rename", "unlink", "fsync")):
            continue
        url = Path(shutil.copytree(stands, tmp_path / str(number)))
        with file_steps.counted(url, number, file_steps.interrupts), pytest.raises(KeyboardInterrupt):
            situations.export(saved[2], str(url))
        ends.add(situations.held(url))
        shutil.rmtree(url)
    assert ends == {before, 2}


LARGE: Final = """
import sys, torch, dcp_engine
from pathlib import Path

def held(*fields):
    status = Path("/proc/self/status").read_text()
    return [int(status.partition(f"{field}:")[2].split()[0]) >> 10 for field in fields]

if sys.argv[3] == "save":
    state = {str(n): torch.full((64, 1 << 20), float(n), dtype=torch.bfloat16) for n in range(16)}
    dcp_engine.save({"model": state}, sys.argv[1], no_dist=True)
else:
    dcp_engine.export
    before, anonymous = held("VmRSS", "RssAnon")
    dcp_engine.export(
        sys.argv[1], sys.argv[2], dtype=sys.argv[3] or None, shard_bytes=700 << 20, format=sys.argv[4]
    )
    (peak,) = held("VmHWM")
    print(peak - before, anonymous)
"""


@pytest.mark.tier("matrix")
@pytest.mark.parametrize(("dtype", "form"), [("", "safetensors"), ("float32", "safetensors"), ("", "torch")])
def test_two_gigabytes_take_less_than_600_mib(dtype: str, form: str) -> None:
    """Of memory that can't be reclaimed: the pages of torch's libraries come from their files, and can."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)

        def run(*arguments: str) -> str:
            command = [sys.executable, "-W", "ignore", "-c", LARGE, str(folder / "run"), str(folder / "hf"), *arguments]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=250).stdout

        run("save")
        grown, anonymous = map(int, run(dtype, form).split())
        print(f"{grown} MiB beyond the {anonymous} MiB that torch takes")
        assert grown < 200
        assert grown + anonymous < 600
        target = folder / "hf"
        sizes = [path.stat().st_size for path in ([target] if target.is_file() else target.glob("model-*"))]
        assert sum(sizes) > (4 if dtype else 2) << 30
