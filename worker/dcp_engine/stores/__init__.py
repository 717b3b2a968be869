"""Stores: the few operations that the engine needs of an object store or a file system."""
