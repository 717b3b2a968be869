"""Reads pickles that anybody may have written, in a process of its own; `sandbox` starts it.

It imports nothing but the standard library. A pickle names only what stands here, nothing of which runs anything or is
anything; what it does to this process ends with this process.
"""
