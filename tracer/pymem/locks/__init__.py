"""What a parked thread waits on, who has it, and what a person would call it."""

from tracer.pymem.locks.blame import BlameReader, Wait

__all__ = ["BlameReader", "Wait"]
