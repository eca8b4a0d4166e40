"""docs/metrics: the reference is the catalogue, rules and dashboard name what is exported."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collector.metrics.catalogue import BY_NAME, METRICS
from collector.metrics.exposition import Renderer
from tests.metrics_events import parse, sink_of_everything

DOCS = Path(__file__).resolve().parents[2] / "docs" / "metrics"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parkscope"
GIVEN_BY_PROMETHEUS = {"instance", "job", "le"}


def promtool() -> str:
    """The tool, from the distribution or from where ./check has put it; else a skip."""
    found = shutil.which("promtool") or shutil.which("promtool", path=str(CACHE / "tools"))
    if found is None:
        pytest.skip("promtool is not here (Debian's package prometheus has it)")
    return found


def check(*words: str | Path, given: bytes = b"") -> None:
    done = subprocess.run(
        [promtool(), *words], input=given, capture_output=True, check=False, cwd=DOCS
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_the_rules_are_rules() -> None:
    check("check", "rules", "rules.yml")


def test_the_rules_do_what_they_say() -> None:
    check("test", "rules", "rules_test.yml")


def test_every_rule_has_a_test() -> None:
    rules, tests = (DOCS / "rules.yml").read_text(), (DOCS / "rules_test.yml").read_text()
    named = re.findall(r"^ *- (?:record|alert): (\S+)$", rules, re.MULTILINE)
    assert len(named) > 15
    simple = {
        "parkscope:park_duration_seconds:p99_5m",  # one function over one rate each
        "parkscope:gil_waiting_threads:rate5m",
        "parkscope:probe_cost_cores:rate5m",
        "parkscope:own_cpu_cores:rate5m",
    }
    assert [name for name in named if name not in tests and name not in simple] == []


def exposition(accept: str = "") -> bytes:
    """A scrape in which every metric has a value."""
    sink = sink_of_everything()
    return Renderer(lambda: sink.snapshot).render(accept)[0]


def test_what_is_exported_is_good_practice() -> None:
    check("check", "metrics", given=exposition())


def test_every_metric_of_the_catalogue_is_exported_with_its_labels() -> None:
    text = exposition("application/openmetrics-text; version=1.0.0").decode()
    families = parse(text, strict=True)
    assert set(families) == {metric.name.removesuffix("_total") for metric in METRICS}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert family.type == metric.type
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), sample


def test_the_reference_lists_every_metric_as_it_is() -> None:
    rows = re.findall(
        r"^\| `(parkscope_\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$",
        (DOCS / "README.md").read_text(),
        re.MULTILINE,
    )
    listed = {
        name: (sort, tuple(re.findall(r"`(\w+)`", labels)), words)
        for name, sort, labels, words in rows
    }
    assert len(rows) == len(listed)
    assert listed == {metric.name: (metric.type, metric.labels, metric.help) for metric in METRICS}


def recorded() -> dict[str, set[str]]:
    """The recording rules and the labels that they keep."""
    text = (DOCS / "rules.yml").read_text()
    rules = re.findall(r"- record: (\S+)\n(.*?)(?=\n {6}- |\n {2}- |\Z)", text, re.DOTALL)
    return {
        name: {
            label.strip() for by in re.findall(r"by \(([^)]*)\)", body) for label in by.split(",")
        }
        - {"le"}
        for name, body in rules
    }


def expressions() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of every query in rules and dashboard."""
    rules = (DOCS / "rules.yml").read_text()
    folded = re.sub(r"expr: >-\n((?: {10}\S.*\n)+)", lambda found: "expr: " + " ".join(
        line.strip() for line in found[1].splitlines()) + "\n", rules)  # fmt: skip
    for expr in re.findall(r"expr: (.*)", folded):
        yield "rules.yml", expr
    board = json.loads((DOCS / "dashboard.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for one in board["annotations"]["list"]:
        yield one["name"], one["expr"]
    for variable in board["templating"]["list"][1:]:
        yield variable["name"], variable["query"]["query"]


_SELECTOR = re.compile(r"([a-zA-Z_][\w:]*)\s*(\{[^}]*\})?(?=\s*(?:\[|\)|[-+*/><=,]|or\b|and\b|$))")


def used(expr: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics that a query names, and the labels that it selects on."""
    without = re.sub(r"\bby \([^)]*\)", "", expr)
    for name, selector in _SELECTOR.findall(without):
        if name.startswith("parkscope") or name in {
            "range_query_success_rate",
            "stale_bucket_hit_ratio",
        }:
            yield name, set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector))


def series(name: str) -> set[str] | None:
    """The labels of what can be queried under this name, None when there is no such thing."""
    if name in recorded():
        return recorded()[name]
    for suffix in ("", "_bucket", "_sum", "_count"):
        metric = BY_NAME.get(name.removesuffix(suffix) if suffix else name)
        if metric is not None and (metric.type == "histogram") == bool(suffix):
            return set(metric.labels)
    return None


@pytest.mark.parametrize(("where", "expr"), list(expressions()))
def test_every_query_is_of_series_that_there_are(where: str, expr: str) -> None:
    found = list(used(expr))
    assert found, f"{where}: {expr}"
    for name, selected in found:
        labels = series(name)
        assert labels is not None, f"{where}: there is no {name}"
        assert selected <= labels | GIVEN_BY_PROMETHEUS, f"{where}: {name} has no {selected}"


def test_the_queries_of_the_dashboard_parse(tmp_path: Path) -> None:
    """As rules: promtool has no other way to look at a query."""
    rules: list[dict[str, Any]] = [
        {"record": "x", "expr": re.sub(r"\$__rate_interval", "5m", expr)}
        for where, expr in expressions()
        if not expr.startswith("label_values")
    ]
    file = tmp_path / "queries.json"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    check("check", "rules", "--lint=none", file)


def test_the_dashboard_is_laid_out_without_overlap() -> None:
    board = json.loads((DOCS / "dashboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)


def test_every_metric_is_shown_in_the_dashboard_or_a_rule() -> None:
    """What nobody looks at is not worth its series; a few are for looking up."""
    names = " ".join(expr for _, expr in expressions())
    looked_up = {
        "build_info", "target_info", "target_up", "threads", "scan_period_seconds",
        "label_overflow_total", "governor_actions_total", "breaker_transitions_total",
        "probe_failures_total", "actions_total", "triggers_fired_total", "pool_refills_total",
        "large_allocations_total",
        "range_query_seconds_total", "map_wait_seconds_total", "map_partial", "deadlocked_threads",
    }  # fmt: skip
    unused = {metric.name.removeprefix("parkscope_") for metric in METRICS} - {
        metric.name.removeprefix("parkscope_") for metric in METRICS if metric.name in names
    }
    assert unused <= looked_up
