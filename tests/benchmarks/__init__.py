"""Measurements of what Parkscope costs and carries; ``tests/full`` registers them."""
