"""Offline analysis: named queries over a recorded trace.

A view is one file of ``views/``: SQL for DuckDB whose first line is a comment that
describes it. ``run_view`` runs one, ``list_views`` names them, ``recover`` makes a
clean trace of whatever can still be read of a damaged one.
"""

from tracer.analysis.query import ViewResult, list_views, run_view
from tracer.analysis.recover import recover

__all__ = ["ViewResult", "list_views", "recover", "run_view"]
