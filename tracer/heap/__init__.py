"""Heap dumps of a live CPython process: capture, walk, file."""
