"""What `dcp inspect` and `verify` print of a checkpoint, whose names somebody else chose."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.sizes import human_bytes
from dcp_engine.format.manifest import Chunk, Manifest, Tensor
from dcp_worker.cli.printed import RateColumn, printable, summary, tensors, told

NAMES = {
    "markup": ("model.[red]head[/red].weight", "model.[red]head[/red].weight"),
    "a closing tag": ("model.[/].weight", "model.[/].weight"),
    "a link": ("model.[link=http://example.com]x", "model.[link=http://example.com]x"),
    "an emoji's name": ("model.:warning:.bias", "model.:warning:.bias"),
    "a terminal's commands": ("model.\x1b]0;owned\x07.bias", "model.\\x1b]0;owned\\x07.bias"),
    "a line's end": ("model.a\nb", "model.a\\nb"),
    "half a character": ("model.\udc80", "model.\\udc80"),
    "a trailing backslash": ("model.a\\", "model.a\\"),
    "another script": ("model.größe.重み", "model.größe.重み"),
}


def shown(manifest: Manifest) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200)
    console.print(summary("s3://bucket/[bold]run", manifest))
    console.print(tensors(manifest))
    return out.getvalue()


@pytest.mark.adversary
@pytest.mark.parametrize(("name", "words"), NAMES.values(), ids=NAMES)
def test_a_name_is_shown_as_it_is(name: str, words: str) -> None:
    tensor = Tensor("float32", (2,), [Chunk((0,), (2,), 0, 0, 8, None)])
    text = shown(Manifest(tensors={name: tensor}))
    assert f"{words} " in text
    assert "s3://bucket/[bold]run" in text
    assert printable(name) == words


def test_sizes_are_in_the_unit_of_kubectls_columns() -> None:
    size = 438_304_768
    tensor = Tensor("float32", (size // 4,), [Chunk((0,), (size // 4,), 0, 0, size, None)])
    assert f" {human_bytes(size)} " in shown(Manifest(tensors={"model.w": tensor}))
    assert f": {human_bytes(size)} in 3 files" in told("Verified", CheckpointInfo(bytes=size, files=3))
    bars = Progress()
    bars.add_task("verify", total=size)
    (task,) = bars.tasks
    task.finished_speed = size
    assert str(RateColumn().render(task)) == f"{human_bytes(size)}/s"
