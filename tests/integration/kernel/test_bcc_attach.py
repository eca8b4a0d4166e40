"""Attaching and letting go: what fails, what is left behind, what is written where."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from probes.errors import BackendUnavailable, TargetGone
from probes.wire import RECORD, Kind
from tests.conftest import Start
from tests.integration.kernel.bcc_session import Process, obedient, watching
from tests.integration.kernel.flood import Flood
from tests.processes import read_line, wait_until
from tracer.backends import Options, TargetPlan, bcc
from tracer.backends.bcc.source import BccSource
from tracer.target import inspect

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[3]

TRACER = """
import json, re, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tracer.backends import Options, TargetPlan
from tracer.backends.bcc.source import BccSource
from tracer.target import inspect
source = BccSource([TargetPlan(inspect({pid}))], Options(cache_dir=Path({cache!r})))
ids = []
for file in Path("/proc/self/task").glob("*/fdinfo/*"):
    try:
        text = file.read_text()
    except OSError:
        continue
    ids += [int(found) for found in re.findall(r"^link_id:\\s*(\\d+)", text, re.M)]
print(json.dumps(ids), flush=True)
while True:
    source.poll(1_000_000_000)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests here: compiled once."""
    return tmp_path_factory.mktemp("cache")


def tracer(start: Start, target: Process, cache: Path, *wrapper: str) -> Process:
    """Another process that attaches, says the ids of its links and polls."""
    script = TRACER.format(root=str(ROOT), pid=target.pid, cache=str(cache))
    return start([*wrapper, sys.executable, "-c", script])


def link_exists(link: int) -> bool:
    """Ask the kernel for a link by its id (BPF_LINK_GET_FD_BY_ID, 30)."""
    from tracer.backends.bcc import syscalls

    try:
        os.close(syscalls._bpf(30, link.to_bytes(4, "little") + bytes(12)))
    except FileNotFoundError:
        return False
    return True


def test_it_says_that_it_works() -> None:
    assert bcc.available() is None


def test_the_second_start_needs_no_compiler(
    start: Start, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=cache):
        pass
    units = list(cache.glob("unit-*.json"))
    assert units
    assert all(unit.stat().st_mode & 0o777 == 0o600 for unit in units)
    monkeypatch.setattr("tracer.backends.bcc.load.DISTRIBUTION_PYTHON", "/bin/false")
    with watching(target, cache=cache) as watch:
        truth = watch.ask(target, "sleep 0.2")
        watch.first(Kind.WAKE, tid=truth["tid"])


def test_a_unit_that_the_kernel_refuses_is_compiled_anew(start: Start, tmp_path: Path) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=tmp_path):
        pass
    (unit,) = tmp_path.glob("unit-*.json")
    content = json.loads(unit.read_text())
    name = "ps_on_waking"
    content["programs"][name] = content["programs"]["ps_on_exec"][:64] + "A" * 64
    unit.write_text(json.dumps(content))
    with watching(target, cache=tmp_path) as watch:
        truth = watch.ask(target, "sleep 0.2")
        watch.first(Kind.WAKE, tid=truth["tid"])
    assert json.loads(unit.read_text())["programs"][name] != content["programs"][name]


def test_closing_twice_leaves_nothing_open(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    before = set(os.listdir("/proc/self/fd"))
    source = BccSource([TargetPlan(inspect(target.pid))], Options(cache_dir=cache), addons=())
    source.poll(0)
    source.close()
    source.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_target_that_has_gone_meanwhile(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    plan = TargetPlan(inspect(target.pid))
    target.kill()
    target.wait()
    with pytest.raises(TargetGone):
        BccSource([plan], Options(cache_dir=cache), addons=())


def test_one_of_two_targets_has_gone_meanwhile(start: Start, cache: Path) -> None:
    stays, goes = obedient(start, sys.executable), obedient(start, sys.executable)
    plans = [TargetPlan(inspect(process.pid)) for process in (stays, goes)]
    goes.kill()
    goes.wait()
    source = BccSource(plans, Options(cache_dir=cache), addons=())
    try:
        batch = source.poll(0)
        assert not batch.done
        ended = np.frombuffer(batch.raw, RECORD)
        assert ended[ended["kind"] == Kind.PROC_EXIT]["pid"].tolist() == [goes.pid]
    finally:
        source.close()


def test_a_probe_that_does_not_compile_names_the_line(
    start: Start, cache: Path, tmp_path: Path
) -> None:
    target = obedient(start, sys.executable)
    broken = tmp_path / "broken.bpf.c"
    broken.write_text("int ps_broken(void *ctx) { return unknown_thing; }\n")
    with (
        pytest.raises(BackendUnavailable, match=r"error: .*unknown_thing") as caught,
        watching(target, cache=cache, addons=[lambda _: Flood(broken, "ps_broken")]),
    ):
        pass
    assert str(cache) in caught.value.hint
    assert (cache / "last-load-failure.log").stat().st_mode & 0o777 == 0o600


def test_a_probe_that_the_kernel_refuses_is_told_and_the_rest_goes_on(
    start: Start, cache: Path, tmp_path: Path
) -> None:
    target = obedient(start, sys.executable)
    refused = tmp_path / "refused.bpf.c"
    refused.write_text("int ps_refused(void *ctx) { return *(int *)(unsigned long)0x1000; }\n")
    addons = [lambda _: Flood(refused, "ps_refused")]
    with watching(target, cache=cache, addons=addons) as watch:
        truth = watch.ask(target, "sleep 0.2")
        watch.first(Kind.WAKE, tid=truth["tid"])
    (event,) = [event for event in watch.events if event.event == "probe_failed"]
    assert event.data["probe"] == "flood/sys_enter"


def test_a_killed_tracer_leaves_the_target_running_and_no_link(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    other = tracer(start, target, cache)
    links = json.loads(read_line(other, timeout=30))
    assert links
    assert all(link_exists(link) for link in links)
    other.send_signal(signal.SIGKILL)
    other.wait()
    wait_until(lambda: not any(map(link_exists, links)), "links gone")
    with watching(target, cache=cache) as watch:
        assert watch.ask(target, "sleep 0.01")["tid"] == target.pid


def test_nothing_is_written_outside_the_cache(start: Start, tmp_path: Path) -> None:
    """Attached in a mount namespace where everything but the cache is read-only."""
    target = obedient(start, sys.executable)
    setup = (
        f"mount --make-rprivate / && mount -t tmpfs -o mode=0700 none {tmp_path} && "
        "for m in $(awk '$2 !~ \"^/(proc|sys|dev)(/|$)\" {print $2}' /proc/mounts); do "
        f'case "$m" in {tmp_path}) ;; *) mount -o remount,bind,ro "$m" || exit 9;; esac; done; '
        "if touch /usr/x 2>/dev/null || touch /tmp/x 2>/dev/null; then exit 8; fi; "
        'exec "$@"'
    )
    other = tracer(start, target, tmp_path, "unshare", "-m", "sh", "-c", setup, "sh")
    assert json.loads(read_line(other, timeout=30))
