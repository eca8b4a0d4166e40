"""Reading a live CPython from outside: threads, frames, names, the GIL."""
