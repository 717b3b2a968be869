"""How many examples a Hypothesis test makes: few daily, many where HYPOTHESIS_PROFILE=long (`make test-matrix`)."""

import os


def examples(daily: int, long: int) -> int:
    """Return the count that `@settings(max_examples=...)` takes."""
    return long if os.environ.get("HYPOTHESIS_PROFILE") == "long" else daily
