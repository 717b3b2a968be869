"""A CheckpointStore beside what names it in manifest files: `dcp run` and `dcp validate` look it up there."""

from pathlib import Path

import pytest

from dcp_operator.api.site import CLUSTER, LOCAL
from dcp_operator.local import documents
from dcp_operator.local.documents import InputError
from test_documents import written

STORE = """
apiVersion: dcp-operator.io/v1alpha1
kind: CheckpointStore
metadata: {name: bucket}
spec: {url: FOLDER, default: true}
"""
SAVE = """
apiVersion: dcp-operator.io/v1alpha1
kind: Checkpoint
metadata: {name: one}
spec:
  operation: Save
  storage: STORAGE
  workload: {entrypoint: gpt:Workload}
"""
BY_NAME, BY_DEFAULT = "{store: {name: bucket}, path: run/one}", "{path: run/one}"


@pytest.mark.parametrize("storage", [BY_NAME, BY_DEFAULT])
@pytest.mark.parametrize("order", [1, -1])
def test_it_is_looked_up_wherever_it_stands(tmp_path: Path, storage: str, order: int) -> None:
    texts = [SAVE.replace("STORAGE", storage), STORE.replace("FOLDER", "s3://team")][::order]
    for site in (LOCAL, CLUSTER):
        found = documents.read(written(tmp_path, *texts), site)
        (source,) = found.checkpoints
        assert (source.checkpoint.spec.storage.url, found.notes) == ("s3://team/run/one", [])
        assert "url" not in source.body["spec"]["storage"], "what is shown is what was written"


def test_a_run_here_needs_it_and_a_cluster_may_have_it(tmp_path: Path) -> None:
    files = written(tmp_path, SAVE.replace("STORAGE", BY_NAME))
    with pytest.raises(InputError) as refused:
        documents.read(files, LOCAL)
    said = f"{files[0]}, document 1: spec.storage.store: store bucket is in none of the files"
    assert refused.value.problems == (f"{said}; add the CheckpointStore to them, or write url",)
    assert documents.read(files, CLUSTER).notes == [f"{said}; what it comes to is not checked"]


def test_what_is_wrong_with_a_store_is_said_of_the_store(tmp_path: Path) -> None:
    files = written(tmp_path, STORE.replace("FOLDER", "bucket"), SAVE.replace("STORAGE", BY_NAME))
    with pytest.raises(InputError) as refused:
        documents.read(files, CLUSTER)
    assert [each for each in refused.value.problems if each.startswith(f"{files[0]}, document 1: spec.url: ")]


def test_a_store_alone_can_be_checked(tmp_path: Path) -> None:
    found = documents.read(written(tmp_path, STORE.replace("FOLDER", "s3://team")), CLUSTER)
    assert (found.checkpoints, found.notes) == ([], [])
    with pytest.raises(InputError, match=r"stands in .* already"):
        documents.read(written(tmp_path, *[STORE.replace("FOLDER", "s3://team")] * 2), CLUSTER)
