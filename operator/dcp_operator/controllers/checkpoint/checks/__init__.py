"""The checks of `decide`, one file each: a check returns its CheckResult, or None where it has nothing to say."""
