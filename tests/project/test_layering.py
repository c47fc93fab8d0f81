"""Who imports whom: lower rows only, third parties only where they belong, and the same for CUDA includes."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "flashactor"

# (row, modules, third-party packages that the modules may import); the longest matching prefix counts.
ROWS = [
    (0, "flashactor.errors", set()),
    (0, "flashactor.types", set()),
    (0, "flashactor.registry", set()),
    (0, "flashactor.settings", {"platformdirs"}),
    (0, "flashactor.streams", set()),
    (0, "flashactor.telemetry.bound_log", {"structlog"}),
    (0, "flashactor.telemetry.endpoints", set()),
    (0, "flashactor.telemetry.extras", set()),
    (0, "flashactor.telemetry.socket_folder", set()),
    (1, "flashactor.arrays", {"numpy", "ml_dtypes"}),
    (1, "flashactor.allocation", {"numpy", "ml_dtypes"}),
    (1, "flashactor.array_checks", set()),
    (1, "flashactor.overlaps", {"numpy"}),
    (1, "flashactor.reference", {"numpy", "ml_dtypes"}),
    (2, "flashactor.dispatch", set()),
    (2, "flashactor.telemetry.events", set()),
    (2, "flashactor.telemetry.request_log", set()),
    (3, "flashactor.requests", set()),
    (4, "flashactor.kernels", set()),
    (4, "flashactor.emulator", {"numpy"}),
    (4, "flashactor.compiler", {"cuda"}),
    (5, "flashactor.cache", {"cuda", "filelock"}),
    (5, "flashactor.executors", {"numpy"}),
    (5, "flashactor.executors.cuda", {"cuda"}),
    (6, "flashactor.actor", {"pykka"}),
    (6, "flashactor.trace", {"filelock"}),
    (6, "flashactor.check", {"numpy", "ml_dtypes"}),
    (7, "flashactor.pool", set()),
    (7, "flashactor.service", set()),
    (7, "flashactor.device", set()),
    (7, "flashactor.telemetry.process_report", set()),
    (7, "flashactor.telemetry.monitor", set()),
    (7, "flashactor.telemetry.metrics", {"prometheus_client"}),
    (8, "flashactor", set()),
    (8, "flashactor.telemetry", {"structlog"}),
    (8, "flashactor.telemetry.tracing", {"opentelemetry"}),
    (8, "flashactor.telemetry.nvtx", {"nvtx"}),
    (8, "flashactor.cli", {"rich", "numpy", "ml_dtypes", "safetensors", "torch"}),
    (8, "flashactor.testing", set()),
    (8, "flashactor.testing.plugin", {"pytest"}),
    (8, "flashactor.__main__", set()),
]


def row_of(module):
    matching = [row for row in ROWS if module == row[1] or module.startswith((row[1] + ".", row[1] + "_"))]
    return max(matching, key=lambda row: len(row[1]))


def imports_of(path):
    """(line, module) of every import, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = (ROOT / full.replace(".", "/")).with_suffix(".py").exists() or (
                    ROOT / full.replace(".", "/")
                ).is_dir()
                yield node.lineno, full if is_module else node.module


def violations(module, path):
    row, prefix, allowed = row_of(module)
    for line, imported in imports_of(path):
        top = imported.partition(".")[0]
        if top == "flashactor":
            other = row_of(imported)
            if other[0] > row:
                yield f"{module}:{line} (row {row}) imports {imported} (row {other[0]})"
        elif top not in sys.stdlib_module_names and top not in allowed:
            yield f"{module}:{line} imports {top}, which {prefix} may not"


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield name, path


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda x: x if isinstance(x, str) else "")
def test_imports_go_down(module, path):
    assert list(violations(module, path)) == []


def test_nothing_is_allowed_that_is_not_imported():
    imported = {prefix: set() for _, prefix, _ in ROWS}
    for module, path in modules():
        imported[row_of(module)[1]] |= {name.partition(".")[0] for _, name in imports_of(path)}
    for _, prefix, allowed in ROWS:
        assert allowed <= imported[prefix], prefix


def test_the_architecture_page_has_the_same_rows():
    page = (ROOT / "docs" / "architecture.md").read_text()
    listed = {}
    for number, cell in re.findall(r"^\| (\d) \| ([^|]*) \|", page, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", re.sub(r"\(.*?\)", "", cell)):
            assert (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file(), name
            listed[name] = int(number)
    for module, path in modules():
        own = path.relative_to(PACKAGE).with_suffix("").as_posix()
        rows = [name for name in listed if own == name or (name.endswith("/") and own.startswith(name))]
        assert rows, f"docs/architecture.md does not list {module}"
        assert listed[max(rows, key=len)] == row_of(module)[0], module


def test_the_check_can_fail(tmp_path):
    source = tmp_path / "bad.py"
    source.write_text("import cuda.core\nfrom flashactor.actor import messages\nimport json\n")
    assert list(violations("flashactor.dispatch", source)) == [
        "flashactor.dispatch:1 imports cuda, which flashactor.dispatch may not",
        "flashactor.dispatch:2 (row 2) imports flashactor.actor.messages (row 6)",
    ]


def test_the_actor_knows_only_the_executors_interface():
    for name, path in modules():
        if name.startswith("flashactor.actor"):
            executors = {
                m
                for _, m in imports_of(path)
                if m.startswith(("flashactor.executors", "flashactor.compiler", "flashactor.cache"))
            }
            assert executors <= {"flashactor.executors.base", "flashactor.cache.record"}, name


def test_only_settings_reads_the_environment():
    readers = {
        name
        for name, path in modules()
        if re.search(r"\bos\.(environ|getenv)\b|from os import .*\b(environ|getenv)\b", path.read_text())
    }
    assert readers == {"flashactor.settings"}


def test_cuda_sources_include_downwards():
    sources = sorted((ROOT / "kernels_cu").rglob("*.cu*"))
    assert sources
    for path in sources:
        folder = path.parent.name
        for included in re.findall(r'#include\s*["<]([^">]+)[">]', path.read_text()):
            other = included.split("/")[0]
            assert other in {"common", folder}, f"{path.name} includes {included}"


def test_test_files_have_names_of_their_own():
    """pytest imports them by their names alone, and refuses the second of a name."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
