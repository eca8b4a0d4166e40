"""Which backend is taken, and what is said about it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import MappingProxyType, ModuleType
from typing import Any, cast

import pytest

from probes.errors import BackendUnavailable, ParkscopeError, PermissionDenied, UsageError
from tracer import backends


class Fake(ModuleType):
    """A backend module: ``obstacle`` from ``available``, ``error`` from attaching."""

    def __init__(self, name: str, obstacle: str | None, error: ParkscopeError | None) -> None:
        super().__init__(name)
        self.obstacle = obstacle
        self.error = error

    def available(self) -> str | None:
        return self.obstacle

    def Source(self, plans: Sequence[Any], options: backends.Options) -> str:  # noqa: N802
        if self.error is not None:
            raise self.error
        return f"attached by {self.__name__}"


def attached(name: str) -> tuple[str, str]:
    """What stands for the source, and the reason."""
    return cast("tuple[str, str]", backends.attach(name, [], backends.Options()))


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Any:
    def offer(**fakes: tuple[str | None, ParkscopeError | None]) -> None:
        table = {}
        for name, (obstacle, error) in fakes.items():
            module = f"fake_backend_{name}"
            monkeypatch.setitem(sys.modules, module, Fake(module, obstacle, error))
            table[name] = (module, "Source")
        monkeypatch.setattr(backends, "BACKENDS", MappingProxyType(table))

    return offer


def test_the_best_that_works_is_taken(offered: Any) -> None:
    offered(good=(None, None), poor=(None, None))
    assert attached("auto") == ("attached by fake_backend_good", "good")


@pytest.mark.parametrize(
    "good",
    [
        ("no BTF here", None),
        (None, BackendUnavailable("no BTF here")),
        (None, PermissionDenied("no BTF here")),
    ],
)
def test_a_worse_one_is_taken_and_it_is_said_why(offered: Any, good: Any) -> None:
    offered(good=good, poor=(None, None))
    source, why = attached("auto")
    assert source == "attached by fake_backend_poor"
    assert why == "poor; not good: no BTF here"


def test_what_is_asked_for_is_not_replaced(offered: Any) -> None:
    offered(good=(None, PermissionDenied("not allowed")), poor=(None, None))
    with pytest.raises(PermissionDenied):
        backends.attach("good", [], backends.Options())
    assert backends.attach("poor", [], backends.Options())[1] == "poor, as asked for"


def test_when_none_works_every_reason_is_said(offered: Any) -> None:
    offered(good=("no BTF", None), poor=("no /proc", None))
    with pytest.raises(BackendUnavailable, match="not good: no BTF; not poor: no /proc"):
        backends.attach("auto", [], backends.Options())


def test_an_unknown_name_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="auto, bcc, proc"):
        backends.attach("ebpf", [], backends.Options())
