"""What is observed: one folder per probe, the record layout, errors. No kernel, no file.

``PROBES`` is the explicit list; its order is the order of the probes' sources in the
compiled unit. A probe that fills in what ``threads`` shows stands before it.
"""

from __future__ import annotations

from probes.alloc.spec import SPEC as ALLOC
from probes.lifecycle.spec import SPEC as LIFECYCLE
from probes.native_map.spec import SPEC as NATIVE_MAP
from probes.slow_path.spec import SPEC as SLOW_PATH
from probes.spec import ProbeSpec
from probes.threads.spec import SPEC as THREADS
from probes.wakes.spec import SPEC as WAKES

PROBES: tuple[ProbeSpec, ...] = (NATIVE_MAP, SLOW_PATH, THREADS, WAKES, LIFECYCLE, ALLOC)
