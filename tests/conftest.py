"""What tests of several files share."""

from collections.abc import Iterator

import pytest

import rank_pool


@pytest.fixture(scope="session")
def pool() -> Iterator[rank_pool.Pool]:
    """Four ranks for as long as the tests run; they are forked when the first test needs them."""
    with rank_pool.running() as pool:
        yield pool
