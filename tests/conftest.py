"""What tests of several files share."""

import itertools
from collections.abc import Iterator
from typing import Final

import pytest

import flaky_proxy
import rank_pool
import s3_server
from dcp_engine import failpoints
from tiers import (
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_ignore_collect,
    pytest_make_collect_report,
    pytest_runtest_logreport,
    pytest_runtest_makereport,
    pytest_runtest_protocol,
    pytest_terminal_summary,
)

__all__ = [
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_ignore_collect",
    "pytest_make_collect_report",
    "pytest_runtest_logreport",
    "pytest_runtest_makereport",
    "pytest_runtest_protocol",
    "pytest_terminal_summary",
]


_BUCKETS: Final = itertools.count(1)


@pytest.fixture(scope="session")
def pool() -> rank_pool.Pool:
    """Ranks for as long as the tests run; they are forked when the first test needs them."""
    return rank_pool.SHARED


@pytest.fixture(scope="session", autouse=True)
def _ranks_end_with_the_tests() -> Iterator[None]:
    yield
    rank_pool.SHARED.close()


@pytest.fixture
def hooked() -> Iterator[None]:
    """Take away after the test what it hooked into the engine's failpoints."""
    yield
    failpoints.hook = None


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """Where an S3 server listens, for as long as the tests run."""
    with s3_server.moto() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def s3(moto: str, request: pytest.FixtureRequest) -> Iterator[s3_server.S3Server]:
    """A bucket of a file's own tests, and its credentials for as long as they run."""
    bucket = f"{request.path.stem.replace('_', '-')}-{next(_BUCKETS)}"  # a process may come back to a file
    with s3_server.with_bucket(moto, bucket) as server:
        yield server


@pytest.fixture
def flaky(s3: s3_server.S3Server) -> Iterator[flaky_proxy.FlakyProxy]:
    """A network before it that fails as a test says."""
    with flaky_proxy.before(s3) as proxy:
        yield proxy
