"""What may stand below a store: whatever is written, the URL lies below the prefix, in Python and in CEL's pattern."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_operator.api.storage_url import below, url_problems
from dcp_operator.api.store_path import PATTERN, is_path, joined
from hypothesis_profile import examples

_ODD = st.sampled_from(
    [".", "..", "/", "//", "%2e", "%2F", "\\", "a", "run", "=", "-", "_", "\n", "\u2024", ":", "~", "@"]
)
PATHS = st.one_of(st.text(max_size=40), st.lists(_ODD, max_size=8).map("".join))
PREFIXES = (
    "s3://bucket",
    "s3://bucket/",
    "s3://bucket/team",
    "s3://bucket/team//",
    "az://c@account/x",
    "file:///mnt/a",
)


@pytest.mark.parametrize("path", ["run/step-1000", "a", "...a", "a.b/..c/d..", "step=1000/x_y-z", "-", "9" * 512])
def test_what_may_stand_there(path: str) -> None:
    assert is_path(path)


@pytest.mark.parametrize(
    "path",
    [
        *("", "/a", "a/", "a//b", "..", "a/..", "../a", "a/../b", ".", "a/./b", "...", "a/.../b"),
        *(
            "s3://b/a",
            "a:b",
            "a%2e%2e/b",
            "%2e%2e/a",
            "a\\..\\b",
            "a b",
            "a\n",
            "\na",
            "a?b",
            "a#b",
            "a*b",
            "ä",
            "9" * 513,
        ),
    ],
)
def test_what_may_not(path: str) -> None:
    assert not is_path(path)
    with pytest.raises(ValueError, match="no path below a store"):
        joined("s3://bucket/team", path)


@pytest.mark.adversary
@given(path=PATHS, prefix=st.sampled_from(PREFIXES))
@settings(max_examples=examples(1000, 50_000), deadline=None)
def test_it_never_leaves_the_prefix(path: str, prefix: str) -> None:
    # CEL's `matches` looks for the pattern anywhere, and its $ is the end of the text.
    by_cel = re.search(PATTERN.removesuffix("$") + r"\Z", path) is not None and len(path) <= 512
    assert is_path(path) is by_cel
    if not is_path(path):
        return
    url = joined(prefix, path)
    assert url.startswith(prefix.rstrip("/") + "/")
    assert below(prefix, url)
    assert list(url_problems("url", url, ("s3", "az", "file"))) == []
