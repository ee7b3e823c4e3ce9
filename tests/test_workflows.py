"""The workflows of the CI: what their steps run is linted, and runs here too, if only to collect what it would test."""

import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML

from tests.documents import ROOT, clean_environment, copy_project, script

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
JOBS = YAML(typ="safe").load(WORKFLOW)["jobs"]
COMMANDS = {step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step}
TESTS = sorted(command for command in COMMANDS if "pytest" in command)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECTORIES = (".ci", "benchmarks", "docs", "pytest_autotune", "suites", "tests")
FILES = ("CHANGELOG.md", "LICENSE", "README.md", "conftest.py", "mkdocs.yml", "pyproject.toml")
# Each of them asks much of one of the dependencies.
QUICK = (
    "suite",
    "store",
    "schema",
    "hardware",
    "load_datasets",
    "reporting_export",
    "reporting_junit",
    "reporting_terminal",
)

# Of "numpy>=1.26,<3", numpy and 1.26.
OLDEST = {
    canonicalize_name(required.name): next(bound.version for bound in required.specifier if bound.operator == ">=")
    for required in map(Requirement, PROJECT["dependencies"])
}


def begins_with(version, oldest):
    """Whether a version is the oldest allowed: 12.560.30 is the first release of 12.560."""
    release = Version(oldest).release
    return (*Version(version).release, 0, 0)[: len(release)] == release


def test_each_command_of_a_step_is_a_script_or_runs_tests():
    scripts = {command.split()[0] for command in COMMANDS - set(TESTS)}
    assert scripts == {f".ci/{name}" for name in ("run", "install", "lint", "docs", "package")}
    assert len(TESTS) >= 2


def test_the_whole_on_one_machine_has_the_parts():
    whole = (ROOT / ".ci" / "run").read_text()
    assert re.findall(r"^\.ci/(\w+)$", whole, re.MULTILINE) == ["lint", "docs", "package"]


@pytest.mark.parametrize("command", TESTS)
def test_steps_that_run_tests_collect_some(tmp_path, command):
    here = command.replace(".venv/bin/", f"{sys.prefix}/bin/").replace("build/", f"{tmp_path}/")
    collect = f"{here} -p no:cacheprovider --collect-only -q -n 0"
    done = subprocess.run(["bash", "-euc", collect], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "::" in done.stdout


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ("      - runs: .ci/lint", "step must run script"),
        ("      - run: echo ${{ matrix.nothing }}", 'property "nothing" is not defined'),
        ("      - run: echo ${{ github.head_ref }}", "potentially untrusted"),
        ("      - run: cat $HOME", "SC2086"),
        ("      - {uses: actions/checkout@v5, with: {deep: 1}}", 'input "deep" is not defined'),
    ],
    ids=["key", "expression", "injection", "shell", "action"],
)
def test_a_mistake_in_a_workflow_is_found(tmp_path, mistake, told):
    (tmp_path / ".github" / "workflows").mkdir(parents=True)
    (tmp_path / ".github" / "workflows" / "ci.yml").write_text(f"{WORKFLOW.read_text()}{mistake}\n")
    copy_project(tmp_path, ".ci")
    done = script("lint", root=tmp_path)
    assert done.returncode != 0
    assert told in done.stdout + done.stderr


def test_every_supported_python_is_tested():
    tested = JOBS["tests"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: 3."
    assert tested == [line.removeprefix(prefix[:-2]) for line in PROJECT["classifiers"] if line.startswith(prefix)]
    assert PROJECT["requires-python"] == f">={tested[0]}"


def test_the_oldest_dependencies_are_tested_with_the_oldest_python():
    matrix = JOBS["tests"]["strategy"]["matrix"]
    assert matrix["include"] == [{"python": matrix["python"][0], "dependencies": "lowest"}]


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the oldest releases have no wheels for this Python")
def test_the_oldest_dependencies_suffice(tmp_path):
    root = copy_project(tmp_path, *DIRECTORIES, *FILES)
    installed = script("install", "lowest", root=root)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    freeze = [root / ".venv" / "bin" / "uv", "pip", "freeze", "--python", root / ".venv"]
    frozen = subprocess.run(freeze, capture_output=True, text=True, check=True).stdout
    versions = dict(line.split("==") for line in frozen.splitlines() if "==" in line)
    assert {name: versions[name] for name, oldest in OLDEST.items() if not begins_with(versions[name], oldest)} == {}
    tests = [f"tests/test_{name}.py" for name in QUICK]
    command = [root / ".venv" / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, cwd=root, env=clean_environment(), capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
