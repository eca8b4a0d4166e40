"""The trace file: one file per recording, crash-safe and self-checking (FORMAT.md)."""
