"""The agent in the training loops of others: one module for each stack, imported only by who has that stack.

Each takes a function that makes the agent of a state: `functools.partial(Agent, prefix="s3://bucket/run", ...)`.
"""
