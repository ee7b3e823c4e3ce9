"""The structure of the package: who may import whom, and what stays cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_autotune

PACKAGE = Path(pytest_autotune.__file__).parent

# Lowest first; a module may import modules of its own layer and of those before it.
LAYERS = [
    {"errors", "samples", "metrics", "spelling", "units", "formatting", "masking", "ticker", "files", "variables"},
    {"distributions", "statistics", "columns", "concurrency", "intervals", "steadiness", "changepoints", "noise"},
    {"space", "constraints", "slo", "capacity"},
    {"records", "budget", "sequential", "pricing", "slowness"},
    {"load", "problems", "yaml_source", "notation", "fields", "load_fields", "load_rules", "suite_load"}
    | {
        "suite",
        "suite_file",
        "suite_docker",
        "parallelism",
        "quantization",
        "questions",
        "suite_accuracy",
        "structured",
        "suite_space",
        "suite_price",
        "suite_gate",
        "suite_gpus",
        "suite_cores",
        "suite_schema",
        "baseline",
        "presets",
    },
    {"search", "scope", "bayes", "surrogate", "seeding", "selection", "explanation", "pareto"}
    | {"gate", "held", "comparison", "confirmation", "screening", "tiers", "transfer", "accuracy"},
    {
        "store",
        "baselines",
        "tables",
        "rows",
        "database",
        "sample_codec",
        "control",
        "hardware",
        "environment",
        "revisions",
    }
    | {"engines", "deploy", "telemetry"}
    | {"load.others"},
    {"reporting"},
    {
        "recorded",
        "modelling",
        "expectation",
        "beginning",
        "batches",
        "liveness",
        "loading",
        "caching",
        "examining",
        "settling",
        "bench",
        "feasibility",
        "trial",
        "probing",
        "choosing",
        "plan",
    }
    | {"verifying", "references", "pairing", "history", "views", "progress", "results", "run", "load_command"},
    {
        "baselines_command",
        "earlier",
        "import_command",
        "new_command",
        "drafting",
        "presets_command",
        "discovery",
        "workers",
        "packing",
        "settings",
        "stash",
        "hooks",
        "nodes",
        "outcomes",
        "scheduling",
        "searching",
        "benchmark",
    },
    {"plugin", "__main__", "__init__"},
]
MAY_IMPORT = {
    "pytest": {"plugin", "nodes", "scheduling", "hooks", "outcomes", "stash", "searching", "benchmark"},
    "_pytest": set(),
    "optuna": {"search"},
    "xdist": {"scheduling"},
    "rich": {"load_command"},
    "plotly": {"reporting"},
    "docker": {"deploy"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def unit_named(name: str) -> str:
    """The module that a dotted name leads to, or the subpackage it belongs to."""
    _, first, *rest = name.split(".")
    # The other load generators are programs that are run, for which `deploy` has the means.
    return f"{first}.others" if first == "load" and rest[:1] == ["others"] else first


def unit_of(path: Path) -> str:
    return unit_named(".".join(("pytest_autotune", *path.relative_to(PACKAGE).with_suffix("").parts)))


def runtime_imports(path: Path) -> set[str]:
    """Dotted names that the module imports at run time, in functions too; not those for type checkers only."""
    names = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return names


def test_every_module_has_its_layer():
    known = set().union(*LAYERS)
    assert {unit_of(path) for path in modules()} <= known


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    unit = unit_of(path)
    height = {name: index for index, layer in enumerate(LAYERS) for name in layer}
    upward = {
        name
        for name in runtime_imports(path)
        if name.startswith("pytest_autotune.")
        and (other := unit_named(name)) != unit
        and other in height
        and height[other] > height[unit]
    }
    assert not upward


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_in_one_place_only(path):
    roots = {name.split(".")[0] for name in runtime_imports(path)}
    assert {root for root in roots if unit_of(path) not in MAY_IMPORT.get(root, {unit_of(path)})} == set()


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_short_enough_to_read(path):
    assert len(path.read_text().splitlines()) <= 500


def test_loading_the_plugin_imports_nothing_heavy():
    heavy = {
        "optuna",
        "numpy",
        "pydantic",
        "sqlalchemy",
        "ruamel",
        "httptools",
        "psutil",
        "junit_xml",
        "asyncio",
        "rich",
        "plotly",
    }
    script = "import sys, pytest; before = set(sys.modules); import pytest_autotune.plugin; print(*(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {name.split(".")[0] for name in loaded} & heavy == set()
