"""Heap dumps from outside: ``capture`` freezes a memory image, the walk reads it.

``image`` is the contract between the two; nothing that walks ever touches the target.
"""
