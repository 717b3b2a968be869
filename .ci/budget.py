"""Lengths of functions and files, and names of classes: `python .ci/budget.py` fails where one is over the budget.

What is over it today stands in budget.toml, with the most that it may be. A number there falls with the code, and an
exception goes once it is not needed; both are said, and don't fail. A number rises, or comes anew, only together with a
file in docs/decisions.
"""

import ast
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "operator/dcp_operator",
    "worker/dcp_agent",
    "worker/dcp_contract",
    "worker/dcp_engine",
    "worker/dcp_worker",
)
TESTS = "tests"
FUNCTION_LINES = 60
FILE_LINES = 350


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield each function and method with its lines, from `def` to its end."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{prefix}{child.name}", (child.end_lineno or child.lineno) - child.lineno + 1
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)

    return walk(tree, "")


def classes(tree: ast.Module) -> Iterator[str]:
    """Yield the names of a module's own classes."""
    return (node.name for node in tree.body if isinstance(node, ast.ClassDef))


def measured(root: Path) -> dict[str, dict[str, int]]:
    """Return what is over the budget in a tree, by the sections of budget.toml."""
    found: dict[str, dict[str, int]] = {"functions": {}, "files": {}, "classes": {}}
    names: dict[str, list[str]] = defaultdict(list)
    for folder in (*PACKAGES, TESTS):
        for path in sorted((root / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            tree, place = ast.parse(text), path.relative_to(root).as_posix()
            if (lines := text.count("\n")) > FILE_LINES:
                found["files"][place] = lines
            found["functions"] |= {
                f"{place}:{name}": length for name, length in functions(tree) if length > FUNCTION_LINES
            }
            if folder != TESTS:
                for name in classes(tree):
                    names[name].append(place)
    found["classes"] = {name: len(places) for name, places in sorted(names.items()) if len(places) > 1}
    return found


def complaints(found: Mapping[str, Mapping[str, int]], allowed: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Yield what is over the budget and over its exception, if it has one."""
    limits = {"functions": f"{FUNCTION_LINES} lines", "files": f"{FILE_LINES} lines", "classes": "1 place"}
    for section, limit in limits.items():
        known = allowed.get(section, {})
        for name, number in found[section].items():
            if number > known.get(name, 0):
                yield f"{name}: {number}, and the budget is {known.get(name, limit)}"


def unneeded(found: Mapping[str, Mapping[str, int]], allowed: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Yield each exception that is not needed any more."""
    for section, known in allowed.items():
        for name in known.keys() - found[section].keys():
            yield f"{name}: is within the budget by now; take it out of .ci/budget.toml"


def main() -> int:
    """Compare the tree with the budget; return the exit code."""
    allowed, found = tomllib.loads((ROOT / ".ci/budget.toml").read_text(encoding="utf-8")), measured(ROOT)
    over = list(complaints(found, allowed))
    sys.stderr.write("".join(f"{each}\n" for each in (*over, *sorted(unneeded(found, allowed)))))
    return int(bool(over))


if __name__ == "__main__":
    sys.exit(main())
