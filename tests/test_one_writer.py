"""One module writes to the API server, and one says whose an object is: what holds them to it is read off the code."""

import ast
from pathlib import Path

import dcp_operator

KUBE = Path(dcp_operator.__file__).parent / "kube"


def naming(*words: str) -> set[str]:
    """Return the modules of `kube` in which a string literal is one of these words."""
    found = set()
    for path in KUBE.rglob("*.py"):
        literals = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
        if any(each in words for each in literals):
            found.add(str(path.relative_to(KUBE)))
    return found


def test_one_module_writes() -> None:
    """Each of its writes is safe to repeat, and carries what it was decided on."""
    assert naming("POST", "PUT", "PATCH", "DELETE") == {"client/cluster.py"}


def test_one_module_says_whose_an_object_is() -> None:
    """One more words what stands in the way of a creation."""
    assert naming("ownerReferences") == {"client/ownership.py", "client/api.py"}
