"""Reading a live CPython from outside: threads, frames, names, the GIL."""

from tracer.pymem.reader import PythonReader

__all__ = ["PythonReader"]
