"""The endpoint as clients see it: good ones, slow ones, many, and hostile ones."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from collector.events import Event
from collector.metrics import catalogue as m
from collector.metrics.exposition import Renderer
from collector.metrics.readings import Readings, Snapshot
from probes.errors import EndpointError, RecordingError
from tests.metrics_events import parse, sink_of_everything
from tests.processes import wait_until
from tracer import metrics_file, metrics_server
from tracer.metrics import Heartbeat, TargetUsage, exported
from tracer.metrics_address import Exports, resolved
from tracer.metrics_file import MetricsFile
from tracer.metrics_server import MAX_CONNECTIONS, MetricsServer

PROMETHEUS_ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


@contextmanager
def serving(
    snapshot: Callable[[], Snapshot], unwell: Callable[[], str | None] = lambda: None
) -> Iterator[tuple[str, int]]:
    server = MetricsServer(resolved("127.0.0.1:0"), Renderer(snapshot), unwell)
    server.start()
    try:
        host, _, port = server.url.split("/")[2].partition(":")
        yield host, int(port)
    finally:
        server.close()


@pytest.fixture
def place() -> Iterator[tuple[str, int]]:
    snapshot = sink_of_everything().snapshot
    with serving(lambda: snapshot) as place:
        yield place


def ask(
    place: tuple[str, int], path: str = "/metrics", method: str = "GET", accept: str = "*/*"
) -> tuple[int, str, bytes]:
    with closing(http.client.HTTPConnection(*place, timeout=10)) as client:
        client.request(method, path, headers={"Accept": accept})
        answer = client.getresponse()
        return answer.status, answer.headers.get("Content-Type", ""), answer.read()


def test_plain_text_and_openmetrics_as_the_client_prefers(place: tuple[str, int]) -> None:
    status, sort, body = ask(place)
    assert (status, sort.partition(";")[0]) == (200, "text/plain")
    plain = set(parse(body.decode()))
    status, sort, body = ask(place, accept=PROMETHEUS_ACCEPT)
    assert (status, sort.partition(";")[0]) == (200, "application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    strict = set(parse(body.decode(), strict=True))
    assert plain == strict
    assert "parkscope_park_duration_seconds" in strict


def test_what_else_it_answers(place: tuple[str, int]) -> None:
    assert ask(place, "/-/healthy") == (200, "text/plain; charset=utf-8", b"well\n")
    status, sort, body = ask(place, "/?x=1")
    assert (status, sort) == (200, "text/html; charset=utf-8")
    assert b'href="/metrics"' in body
    assert ask(place, "/metrics?name=x")[0] == 200
    assert ask(place, "/metrics", "HEAD")[::2] == (200, b"")
    assert ask(place, "/etc/passwd")[0] == 404
    assert ask(place, "/metrics", "POST")[0] == 501
    assert ask(place, accept="," * 5000)[0] == 200


@pytest.mark.parametrize(
    "version", ["x.y", "1", "", "99999.0.0", "1.0.0\xff", "2.0.0;escaping=evil"]
)
def test_an_odd_accept_gets_an_answer(place: tuple[str, int], version: str) -> None:
    for sort in ("application/openmetrics-text", "text/plain"):
        status, content_type, body = ask(place, accept=f"{sort};version={version}")
        assert (status, body[:6], content_type.isascii()) == (200, b"# HELP", True)


def test_a_sick_loop_is_said() -> None:
    with serving(Snapshot, lambda: "no news for 31 s") as place:
        assert ask(place, "/-/healthy")[::2] == (503, b"no news for 31 s\n")
        assert ask(place)[::2] == (200, b""), "nothing has been folded yet"


def test_the_heart_beats_while_snapshots_come(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns, readings = [0], Readings()
    monkeypatch.setattr("tracer.metrics.time.monotonic_ns", lambda: now_ns[0])
    current = [Snapshot()]
    heart = Heartbeat(lambda: current[0])
    now_ns[0] = 10**12
    assert heart.unwell() is None, "there is no session yet"
    readings.set(m.WATCHING, (), 1)
    current[0] = readings.snapshot(0)
    assert heart.unwell() is None
    now_ns[0] += 31 * 10**9
    assert heart.unwell() == "no news for 31 s"
    current[0] = readings.snapshot(1)
    assert heart.unwell() is None


@pytest.mark.parametrize(
    "raw",
    [b"\x00\xff" * 100, b"GET\r\n\r\n", b"GET /metrics HTTP/9.9\r\n\r\n", b"\r\n" * 50,
     b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nA: b\r\n" * 200],
)  # fmt: skip
def test_garbage_is_refused_and_the_next_one_is_served(
    place: tuple[str, int], raw: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with closing(socket.create_connection(place, timeout=10)) as client:
        try:
            client.sendall(raw)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
        except OSError:
            pass  # it hung up on us, which is as good
    assert ask(place)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_clients_that_hang_are_let_go_and_more_than_some_turned_away(
    place: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "WHOLE_S", 0.5)
    silent = [socket.create_connection(place, timeout=10) for _ in range(MAX_CONNECTIONS)]
    for client in silent:
        client.sendall(b"GET /met")

    def turned_away() -> bool:
        try:
            return ask(place)[0] == 503
        except (OSError, http.client.HTTPException):
            return True  # hung up on, before the request was read

    wait_until(turned_away, "a client too many turned away")
    for client in silent:
        assert client.recv(100) == b"", "let go after its time"
        client.close()

    def served() -> bool:
        try:
            return ask(place)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    wait_until(served, "room again")


def test_a_client_that_goes_away_is_nobodys_error(
    place: tuple[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(20):
        client = socket.create_connection(place, timeout=10)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        client.close()  # with a reset
    assert ask(place)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_a_snapshot_is_rendered_once_however_often_it_is_asked_for() -> None:
    sink = sink_of_everything()
    renderer = Renderer(lambda: sink.snapshot)
    first = renderer.render()[0]
    assert all(renderer.render()[0] is first for _ in range(100))
    sink.on_events([Event("breaker", 0, data={"name": "x", "to": "open"})])
    assert renderer.render()[0] is first, "not published yet"
    sink.close()
    assert b'breaker="x"' in renderer.render()[0]


def test_scrapes_while_it_is_folded_are_whole() -> None:
    """Two counters that always go up together never differ in a scrape."""
    sink, stop = sink_of_everything(), threading.Event()

    def fold() -> None:
        while not stop.is_set():
            data = {"name": "pair", "to": "open"}
            sink.on_events(
                [Event("breaker", 0, data=data), Event("action", 0, data={"action": "0"})]
            )
            sink.close()

    base = sink.snapshot.get(m.ACTIONS, "0", "unknown")
    worker = threading.Thread(target=fold)
    with serving(lambda: sink.snapshot) as place:
        worker.start()
        try:
            for _ in range(50):
                text = ask(place)[2].decode()
                found = {
                    sample.name: sample.value
                    for family in parse(text).values()
                    for sample in family.samples
                    if sample.labels in ({"breaker": "pair", "to": "open"},
                                         {"action": "0", "status": "unknown"})
                }  # fmt: skip
                pair = found.get("parkscope_breaker_transitions_total", 0)
                assert found["parkscope_actions_total"] - base == pair
        finally:
            stop.set()
            worker.join()


def test_a_port_that_is_taken_is_an_error_with_a_hint(place: tuple[str, int]) -> None:
    with pytest.raises(EndpointError) as refused:
        MetricsServer(resolved(f"127.0.0.1:{place[1]}"), Renderer(Snapshot), lambda: None)
    assert (refused.value.exit_code, "in use" in refused.value.message) == (10, True)
    assert str(place[1]) in refused.value.hint


def test_an_address_of_another_machine_cannot_be_had() -> None:
    address = resolved("192.0.2.1:0", anywhere=True)
    with pytest.raises(EndpointError):
        MetricsServer(address, Renderer(Snapshot), lambda: None)


def test_the_port_is_free_again_and_no_thread_is_left(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    said: list[str] = []
    wanted = Exports(resolved("127.0.0.1:0"), tmp_path / "a.prom")
    with exported(wanted, lambda: 0, said.append) as sinks:
        port = int(said[0].rpartition(":")[2].partition("/")[0])
        assert ask(("127.0.0.1", port), "/-/healthy")[0] == 200
        assert len(sinks) == 1
    assert set(threading.enumerate()) <= before
    with closing(socket.create_server(("127.0.0.1", port))):
        pass
    assert said == [f"metrics at http://127.0.0.1:{port}/metrics"]


def test_ipv6() -> None:
    try:
        server = MetricsServer(resolved("[::1]:0"), Renderer(Snapshot), lambda: None)
    except EndpointError:
        pytest.skip("no IPv6 here")
    server.start()
    assert server.url.startswith("http://[::1]:")
    server.close()


def test_the_file_is_replaced_whole_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_file, "PERIOD_S", 0.01)
    sink = sink_of_everything()
    path = tmp_path / "parkscope.prom"
    file = MetricsFile(path, Renderer(lambda: sink.snapshot))
    assert path.stat().st_mode & 0o777 == 0o644
    first = path.stat().st_ino
    file.start()
    wait_until(lambda: path.stat().st_ino != first, "written again")
    sink.on_events([Event("detached", 9)])
    sink.close()
    assert file.close() == ""
    assert "parkscope_park_duration_seconds" in parse(path.read_text())
    assert "\nparkscope_watching 0.0\n" in path.read_text()
    assert [one.name for one in tmp_path.iterdir()] == ["parkscope.prom"]


def test_a_file_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecordingError):
        MetricsFile(tmp_path / "no" / "a.prom", Renderer(Snapshot))
    os.mkfifo(tmp_path / "pipe.prom")
    with pytest.raises(RecordingError, match="no regular file"):
        MetricsFile(tmp_path / "pipe.prom", Renderer(Snapshot))
    os.unlink(tmp_path / "pipe.prom")
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setattr(metrics_file, "PERIOD_S", 0.01)
    file = MetricsFile(folder / "a.prom", Renderer(Snapshot))
    file.start()
    (folder / "a.prom").unlink()
    folder.rmdir()
    assert "cannot be written" in file.close()


def test_usage_is_of_the_process_that_was_meant() -> None:
    usage = TargetUsage()
    own = usage(os.getpid())
    assert own is not None
    assert own.threads == len(os.listdir("/proc/self/task"))
    assert own.rss_bytes > 10 << 20
    assert usage(1 << 22) is None
    usage._started[1] = -1  # another process had this number
    assert usage(1) is None
