"""Where metrics may be served: loopback, unless somebody says otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.errors import EndpointError, UsageError
from tracer.metrics_address import DEFAULT_ADDRESS, exports, resolved


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (DEFAULT_ADDRESS, "127.0.0.1", 9464),
        (":80", "127.0.0.1", 80),
        ("127.8.9.1:0", "127.8.9.1", 0),
        ("[::1]:9464", "::1", 9464),
        ("[::ffff:127.0.0.1]:1", "::ffff:127.0.0.1", 1),
    ],
)
def test_loopback_is_taken_as_it_is(text: str, host: str, port: int) -> None:
    assert resolved(text).sockaddr[:2] == (host, port)


@pytest.mark.parametrize("text", ["0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464", "[2001:db8::1]:1"])
def test_what_others_can_reach_has_to_be_meant(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        resolved(text)
    assert "--listen-anywhere" in refused.value.hint
    assert resolved(text, anywhere=True).sockaddr[1] in {9464, 1}


@pytest.mark.parametrize(
    "text",
    ["4711", "", ":", "a:b:9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "::1:9464",
     "127.0.0.1:-1", "127.0.0.1:1 ", "http://127.0.0.1:1", "[127.0.0.1:1", "x" * 10_000],
)  # fmt: skip
def test_other_text_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        resolved(text)
    assert "HOST:PORT" in refused.value.hint
    assert ("PIDs go before '--metrics'" in refused.value.hint) == (text == "4711")


def test_a_name_without_an_address() -> None:
    with pytest.raises(EndpointError):
        resolved("no-such-host.invalid:9464")


def test_a_textfile_has_the_name_that_its_reader_wants(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        exports(None, tmp_path / "metrics.txt")
    with pytest.raises(UsageError):
        exports(None, None, anywhere=True)
    assert exports(None, None) is None
    wanted = exports(None, tmp_path / "a.prom")
    assert wanted is not None
    assert (wanted.address, wanted.file) == (None, tmp_path / "a.prom")
