"""The rules of ARCHITECTURE.md that a machine can check, checked on the source text."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

RANK = {"probes": 0, "collector": 1, "tracer": 2, "parkscope": 3, "examples": 4, "tests": 4}
"""A package imports its own rank and lower ones: probes ◄ collector ◄ tracer ◄ the rest."""

CONFINED = {
    "bcc": ("tracer/backends/bcc/loader.py",),
    "click": ("tracer/cli*.py",),
    "rich": ("tracer/*view*.py",),
    "textual": ("tracer/*view*.py",),
    "elftools": ("tracer/elf.py",),
    "capstone": ("tracer/sites/*.py",),
    "duckdb": ("tracer/analysis/*.py", "tracer/export/*.py"),
    "prometheus_client": ("collector/metrics/exposition.py",),
    "pyarrow": (
        "collector/trace/*.py",
        "collector/sinks/trace_file.py",
        "tracer/analysis/*.py",
        "tracer/export/*.py",
        "tracer/heap/codec.py",
    ),
}
"""Third-party packages and the only product modules that may import them."""


HEAVY = (
    "bcc",
    "capstone",
    "duckdb",
    "elftools",
    "numpy",
    "prometheus_client",
    "pyarrow",
    "rich",
    "textual",
)
"""What ``parkscope --help`` may not load: it has to answer in 150 ms."""

MAX_MODULE, MAX_FUNCTION, LONG_FUNCTION, LONG_SHARE = 400, 70, 50, 0.05


@dataclass(frozen=True)
class Module:
    """One Python file of the project: its path as text, its lines and its syntax tree."""

    name: str
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.name.removesuffix(".py").partition("/")[0]

    @property
    def is_product(self) -> bool:
        return self.package in {"probes", "collector", "tracer", "parkscope"}


def _files() -> list[str]:
    """Every file of the project: what git tracks or would, else all of the tree."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, capture_output=True, text=True, check=True).stdout
        names = sorted(set(listed.split("\0")) - {""})
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or a tree without .git
        names = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*"))
    skipped = re.compile(r"(^|/)(\.(?!ci/)[^/]+|__pycache__|build|dist|[^/]+\.egg-info)/")
    return [name for name in names if (ROOT / name).is_file() and not skipped.search(name)]


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for name in _files():
        if name.endswith(".py") and name.removesuffix(".py").partition("/")[0] in RANK:
            text = (ROOT / name).read_text()
            found.append(Module(name, text, ast.parse(text, name)))
    return tuple(found)


def _imported(node: ast.AST, module: Module) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        if node.level:
            return [module.package]
        return [node.module or ""]
    return []


def imports(module: Module) -> Iterator[tuple[int, str, bool]]:
    """(line, top-level package, at import time?) of each import statement."""
    lazy = {
        id(inner)
        for outer in ast.walk(module.tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
    } | {
        id(inner)
        for outer in ast.walk(module.tree)
        if isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.unparse(outer.test)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(module.tree):
        for name in _imported(node, module):
            yield getattr(node, "lineno", 0), name.partition(".")[0], id(node) not in lazy


def test_imports_only_go_downwards() -> None:
    wrong = [
        f"{module.name}:{line} imports {package}"
        for module in modules()
        for line, package, _ in imports(module)
        if package in RANK
        and (
            RANK[package] > RANK[module.package]
            or (module.is_product and package in {"examples", "tests"})
            or (module.package == "examples" and package == "tests")
        )
    ]
    assert not wrong


def test_third_party_packages_stay_in_their_modules() -> None:
    wrong = [
        f"{module.name}:{line} imports {package}"
        for module in modules()
        if module.is_product
        for line, package, _ in imports(module)
        if package in CONFINED and not any(fnmatch(module.name, p) for p in CONFINED[package])
    ]
    assert not wrong


def test_bcc_is_never_imported_at_import_time() -> None:
    wrong = [
        f"{module.name}:{line}"
        for module in modules()
        for line, package, eager in imports(module)
        if package == "bcc" and eager
    ]
    assert not wrong


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from tracer.cli import main; sys.argv[1:] = ['--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print('loaded:', *sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["loaded:"]


def functions(module: Module) -> Iterator[tuple[str, int]]:
    """(place and name, lines) of every function, its decorators left out."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield f"{module.name}:{node.lineno} {node.name} ({lines})", lines


def test_modules_are_short() -> None:
    lengths = {module.name: module.text.count("\n") for module in modules()}
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_MODULE}


def test_functions_are_short() -> None:
    every = [function for module in modules() for function in functions(module)]
    assert not [name for name, lines in every if lines > MAX_FUNCTION]
    long = [name for name, lines in every if lines > LONG_FUNCTION]
    assert len(long) <= LONG_SHARE * len(every), long


_VERSION_WORD = re.compile(r"(^|_)(version|version_info|hexversion|minor)$", re.IGNORECASE)


def _names_a_version(node: ast.expr) -> bool:
    while isinstance(node, ast.Subscript):
        node = node.value
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return bool(_VERSION_WORD.search(name))


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int


def _compares_a_version(node: ast.Compare) -> bool:
    """``version >= (3, 13)``, ``version[1] < 12``, ``minor == 14``, ``hexversion > 0x030d0000``.

    One number against a plain ``version`` is a file format's, such as BTF's.
    """
    sides = [node.left, *node.comparators]
    literals = [s for s in sides if _is_number(s) or isinstance(s, ast.Tuple)]
    versions = [s for s in sides if _names_a_version(s)]
    plain = all(ast.unparse(side).rpartition(".")[2].lower() == "version" for side in versions)
    whole = all(map(_is_number, literals))
    return bool(literals and versions) and not (plain and whole)


def test_no_version_is_compared_outside_the_layout_loader() -> None:
    wrong = [
        f"{module.name}:{node.lineno} {ast.unparse(node)}"
        for module in modules()
        if module.is_product and not fnmatch(module.name, "tracer/pymem/layout*.py")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Compare) and _compares_a_version(node)
    ]
    assert not wrong


def test_tests_wait_for_conditions_and_never_sleep() -> None:
    exempt = ("tests/targets/*", "tests/benchmarks/*", "tests/full/*")
    wrong = [
        f"{module.name}:{node.lineno}"
        for module in modules()
        if module.package == "tests" and not any(fnmatch(module.name, p) for p in exempt)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"sleep", "time.sleep"}
    ]
    assert not wrong


# Written in pieces, so that this file does not contain what it looks for.
_PLACES = re.compile(
    "|".join(
        re.escape(start + rest)
        for start, rest in [
            ("/work", "/main"),
            ("/work", "/shared"),
            ("/work", "/."),
            ("/tmp", "/ps/"),
            ("/root", "/"),
            ("/farm", "/"),
            ("/opt/", "wheels"),
            ("/opt/", "pypi"),
            ("/var/tmp", "/sid"),
            ("deb.", "debian.org"),
            ("registry.", "npmjs.org"),
            ("files.", "pythonhosted"),
        ]
    )
)


def test_nothing_names_the_machine_it_was_written_on() -> None:
    wrong = []
    for name in _files():
        try:
            text = (ROOT / name).read_text()
        except UnicodeDecodeError:
            continue
        wrong += [f"{name}: {found.group()}" for found in _PLACES.finditer(text)]
    assert not wrong


def _registered(file: str, variable: str) -> str | None:
    """The source text that ``variable`` is assigned in ``file``, or None."""
    for module in modules():
        if module.name == file:
            for node in module.tree.body:
                targets = node.targets if isinstance(node, ast.Assign) else []
                targets += [node.target] if isinstance(node, ast.AnnAssign) else []
                if any(isinstance(t, ast.Name) and t.id == variable for t in targets):
                    value = getattr(node, "value", None)
                    return ast.unparse(value) if value is not None else ""
    return None


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("target.version >= (3, 13)", True),
        ("(3, 8) <= python.version < (3, 16)", True),
        ("sys.version_info[:2] == (3, 11)", True),
        ("version[1] >= 13", True),
        ("minor == 14", True),
        ("python.hexversion >= 0x030d0000", True),
        ("header.version != 1", False),
        ("version != FORMAT_VERSION", False),
        ("size >= 13", False),
    ],
)
def test_what_counts_as_a_version_comparison(text: str, is_one: bool) -> None:
    node = ast.parse(text, mode="eval").body
    assert isinstance(node, ast.Compare)
    assert _compares_a_version(node) is is_one


@pytest.mark.parametrize(
    ("variable", "file", "pattern"),
    [
        ("SINKS", "collector/sinks/__init__.py", "collector/sinks/*.py"),
        ("PROBES", "probes/__init__.py", "probes/*/spec.py"),
        ("ACTIONS", "tracer/actions/__init__.py", "tracer/actions/*.py"),
        ("EXPORTS", "tracer/export/__init__.py", "tracer/export/*.py"),
    ],
)
def test_every_plug_in_is_registered(variable: str, file: str, pattern: str) -> None:
    plug_ins = {
        path.parent.name if path.name == "spec.py" else path.stem
        for path in ROOT.glob(pattern)
        if path.name != "__init__.py"
    }
    if not plug_ins:
        pytest.skip(f"nothing matches {pattern} yet")
    text = _registered(file, variable)
    assert text is not None, f"{file} does not define {variable}"
    assert {
        name for name in plug_ins if not re.search(rf"\b{name}\b", text, re.IGNORECASE)
    } == set()
