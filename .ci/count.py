"""Print one closing line over the JUnit files of a folder: how many tests passed, failed and were skipped."""

import sys
from pathlib import Path
from xml.etree import ElementTree as ET

ran = failed = skipped = 0
for path in sorted(Path(sys.argv[1]).glob("*.xml")):
    for suite in ET.parse(path).iter("testsuite"):  # noqa: S314 - written by our own pytest a moment ago
        ran += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
print(f"{ran - failed - skipped} passed, {failed} failed, {skipped} skipped")  # noqa: T201
sys.exit(0 if ran else "no test ran")
