"""What a Load made of the checkpoint's entries, and what else a result says, reaches whoever looks at it."""

from collections.abc import Mapping
from typing import Any

import pytest

from dcp_contract.checkpoint_info import LoadSummary
from dcp_contract.reasons import Reason
from dcp_contract.report import Report
from dcp_contract.sections import Workload
from dcp_operator.api.checkpoint.text import human_entries
from dcp_operator.local import table
from dcp_operator.local.run import _asides
from scenes import after_first_attempt, checkpoint, ended, manifest, message, saved

WORDS = {
    "all": (LoadSummary(loaded=16), "16 loaded"),
    "less": (LoadSummary(loaded=16, left_out=8), "16 loaded, 8 left out"),
    "converted": (LoadSummary(loaded=16, converted=2), "16 loaded, 2 converted"),
    "both": (LoadSummary(loaded=16, left_out=8, converted=2), "16 loaded, 8 left out, 2 converted"),
}


@pytest.mark.parametrize(("entries", "words"), WORDS.values(), ids=WORDS)
def test_counts_in_words(entries: LoadSummary, words: str) -> None:
    assert human_entries(entries) == words


def loaded(entries: LoadSummary, *warnings: str) -> Mapping[str, Any]:
    info = saved().checkpoint
    assert info is not None
    report = Report(
        result=Reason.LOADED, checkpoint=info.model_copy(update={"entries": entries}), warnings=list(warnings)
    )
    decision = after_first_attempt(
        ended(0, report), of=checkpoint({"spec.operation": "Load", "spec.workers.numNodes": 1})
    )
    assert message(decision).endswith(f"Entries: {human_entries(entries)}.")
    return decision.status


@pytest.mark.adversary
def test_a_load_counts_in_its_status_its_message_and_its_table() -> None:
    status = loaded(LoadSummary(loaded=16, left_out=8, converted=2))
    assert status["entries"] == "16 loaded, 8 left out, 2 converted"
    assert status["checkpoint"]["entries"] == {"loaded": 16, "leftOut": 8, "converted": 2}
    shown = table.results([manifest() | {"status": dict(status)}], wide=True)
    assert "16 loaded, 8 left out, 2 converted" in [str(cell) for column in shown.columns for cell in column.cells]


def test_dcp_run_says_what_is_beside_a_result() -> None:
    assert [*_asides(loaded(LoadSummary(loaded=16)))] == []
    assert [*_asides(loaded(LoadSummary(loaded=16, left_out=8), "a setting is gone"))] == [
        "entries: 16 loaded, 8 left out",
        "warning: a setting is gone",
    ]
    assert [*_asides({"phase": "Failed"})] == []


@pytest.mark.adversary
@pytest.mark.parametrize("name", ["Config", "my pkg.Config", "my_pkg.", ".Config", "my_pkg:Config", "os.1", "a-b.C"])
def test_what_can_be_no_class_is_refused_in_one_line(name: str) -> None:
    from dcp_operator.api.checkpoint.parsing import parse
    from dcp_operator.api.problems import SpecError

    with pytest.raises(SpecError) as refused:
        parse(manifest({"spec.workload.allow": [name]}))
    [problem] = refused.value.problems
    assert problem.startswith("spec.workload.allow[0]: ")


@pytest.mark.adversary
def test_a_list_of_classes_reaches_the_ranks() -> None:
    task = checkpoint({"spec.workload.allow": ["my_pkg.Config", "a.b.Outer.Inner"]}).task(1)
    assert task.workload == Workload(entrypoint="my_pkg.train:Workload", allow=["my_pkg.Config", "a.b.Outer.Inner"])
