"""Print what the JUnit files of a folder say: a line per tier with its time, then one line that counts all tests.

    python3 .ci/count.py FOLDER TIER=MINUTES ...

Exits with 1 where a tier that has a ceiling took longer, has no report, or has no test that passed.
"""

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

ceilings = {tier: float(minutes) for tier, _, minutes in (each.partition("=") for each in sys.argv[2:])}
total: Counter[str] = Counter()
faults = []
passed: set[str] = set()
for path in sorted(Path(sys.argv[1]).glob("*.xml")):
    of_tier: Counter[str] = Counter()
    seconds = 0.0
    for suite in ET.parse(path).iter("testsuite"):  # noqa: S314 - written by our own pytest a moment ago
        ran, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        of_tier.update(passed=ran - failed - skipped, failed=failed, skipped=skipped)
        seconds += float(suite.get("time", 0))
    total.update(of_tier)
    passed.update([path.stem] if of_tier["passed"] else [])
    counts = ", ".join(f"{of_tier[each]} {each}" for each in ("passed", "failed", "skipped"))
    print(f"{path.stem}: {counts} in {seconds / 60:.1f} min")  # noqa: T201
    if seconds > ceilings.get(path.stem, float("inf")) * 60:
        faults.append(
            f"{path.stem} took {seconds / 60:.1f} min, more than the {ceilings[path.stem]:.0f} of its ceiling"
        )
faults += [f"of {tier} no test passed" for tier in sorted(ceilings.keys() - passed)]
print(*faults, sep="\n", end="\n" if faults else "")  # noqa: T201
print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")  # noqa: T201
sys.exit(1 if faults or not total.total() else 0)
