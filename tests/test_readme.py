"""What README and docs say is so: commands, options, suites, links."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest

from pytest_autotune.suite_file import load_suite
from tests.conftest import TOLERANT_LOAD
from tests.documents import DOCUMENTS, ROOT, blocks, clean_environment, commands, copy_project

README = (ROOT / "README.md").read_text()
TUNE = "python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/pytest suites/quickstart.yaml --autotune -v"
TEST = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pytest -n 2 --dist loadgroup"
VLLM = "suites/vllm_cpu.yaml"  # measured by tests/real
LINES = dict.fromkeys(line for path in DOCUMENTS for line in commands(path) if line.startswith("pytest "))
PYTEST = [shlex.split(line)[1:] for line in LINES]
APART = {"--collect-only", "--autotune-record", VLLM}  # the second by tests/test_gate_recipe.py
MEASURING = [words for words in PYTEST if "--autotune" in words and not APART & set(words)]
SUITES = [(path, text) for path in DOCUMENTS for text in blocks(path, "yaml") if text.startswith("name:")]


def plan(directory, *arguments):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A copy of the project in which a reader has followed the README: the suites that it shows are saved."""
    directory = tmp_path_factory.mktemp("reader")
    for name in ("suites", "tests"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__", "data"))
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, directory)
    own = blocks(ROOT / "README.md", "yaml")[0]
    (directory / "suites" / "chat.yaml").write_text(own)
    (directory / "tolerant_load.py").write_text(TOLERANT_LOAD)
    (directory / "suites" / "suite_chat.py").write_text(blocks(ROOT / "README.md", "python")[0])
    return directory


@pytest.mark.parametrize("command", [TUNE, TEST])
def test_the_first_screen_has_both_commands_as_one_line_each(command):
    first_screen = README.splitlines()[:30]
    assert first_screen.count(f"    {command}") == 1


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    (extract,) = re.findall(r"^command=\$\((grep .* README\.md)\)$", script, re.MULTILINE)
    found = subprocess.run(["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found.strip() == TEST
    assert re.search(r'bash -euc "\$command"$', script, re.MULTILINE)
    assert "run: .ci/run\n" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_there_are_command_lines_to_check():
    assert len(PYTEST) >= 8
    assert len(SUITES) >= 5


@pytest.mark.parametrize("arguments", PYTEST, ids=" ".join)
def test_every_command_line_selects_something(reader, arguments):
    result = plan(reader, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", MEASURING, ids=" ".join)
def test_every_command_line_measures(reader, arguments):
    """Whole suites would take minutes: one trial of each grid stands for them, or one setting of those at a level."""
    part = ["-m", "config(max_num_batched_tokens=512)"] if "-k" in arguments else ["-k", "defaults and not capacity"]
    part = [] if "-m" in arguments else part
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tolerant_load", *arguments, *part]
    result = subprocess.run(command, cwd=reader, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^=+ .*\d+ (deployed|compliant|violating)\b", result.stdout, re.MULTILINE), result.stdout


@pytest.mark.slow
def test_the_first_command_installs_and_measures(tmp_path):
    root = copy_project(tmp_path, "pytest_autotune", "suites", "README.md", "LICENSE", "pyproject.toml", "conftest.py")
    (root / "tolerant_load.py").write_text(TOLERANT_LOAD)
    variables = {**clean_environment(), "PYTHONPATH": str(root)}
    variables["PYTEST_ADDOPTS"] = "-p tolerant_load -k defaults"  # one trial of ten
    variables["PIP_NO_COMPILE"] = "1"  # compiling all modules takes longer than the rest
    command = ["bash", "-euc", TUNE]
    result = subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "suites/quickstart.yaml::defaults::deploy DEPLOYED" in result.stdout


def test_ci_gets_vllm_as_the_page_about_it_says():
    page, ci = ((ROOT / name).read_text() for name in ("docs/vllm-on-cpu.md", ".ci/run"))
    for verb in ("install", "uninstall"):
        told, done = (
            set(re.search(rf"venv-vllm/bin/pip {verb}(?: -\w)* ([\w -]+)", text)[1].split()) for text in (page, ci)
        )
        assert told == done


def test_every_command_of_a_document_is_run_by_a_test():
    load = ("python -m pytest_autotune load ", "python -m pytest_autotune.engines.sim ")  # tests/test_docs_load.py
    history = "python -m pytest_autotune history "  # tests/test_history.py
    baselines = "python -m pytest_autotune baselines"  # tests/test_baselines_mode.py
    presets = "python -m pytest_autotune presets"  # tests/test_presets_command.py
    new = "python -m pytest_autotune new "  # tests/test_new.py
    importing = "python -m pytest_autotune import "  # tests/test_import.py
    bisect = "git bisect "  # tests/test_verify_mode.py
    first = {shlex.join(shlex.split(line)) for line in (TUNE, TEST)}
    others = [
        line
        for path in DOCUMENTS
        for line in commands(path)
        if not line.startswith(("pytest ", baselines, presets, new, importing, bisect, history, *load))
        and line not in first
    ]
    # Done by .ci/run and tests/real: the environment, the model, and what names them.
    assert {line.split()[0].strip("'") for line in others} == {"python3", "export", "$PYTEST_AUTOTUNE_VLLM_PYTHON"}
    assert all("vllm" in line.lower() for line in others)


@pytest.mark.parametrize(
    ("arguments", "selected"),
    [
        (["suites/quickstart.yaml::defaults"], 4),
        (["suites/quickstart.yaml", "-m", 'config(gpu_memory_utilization="0.9")'], 12),
        (["suites/quickstart.yaml", "-m", "config(max_num_batched_tokens=512, concurrency=8)"], 3),
        (["suites/chat.yaml"], 7 * 3),
        (["suites/suite_chat.py"], 7 * 6),
        (["suites/quickstart.yaml"], 40),
    ],
)
def test_selections_select_what_the_readme_says(reader, arguments, selected):
    output = plan(reader, "--autotune", *arguments).stdout
    assert len([line for line in output.splitlines() if "::" in line]) == selected


def test_the_output_that_is_shown_is_of_the_quickstart_as_it_is(reader):
    (shown,) = blocks(ROOT / "README.md", "text")
    collected = plan(reader, "--autotune", "suites/quickstart.yaml").stdout.splitlines()
    items = set(re.findall(r"^(suites/quickstart.yaml::\S+::\w+) [A-Z]", shown, re.MULTILINE))
    assert len(items) >= 8
    assert items <= set(collected)
    assert f"collected {sum('::' in line for line in collected)} items" in shown


@pytest.mark.parametrize(
    ("path", "text"), SUITES, ids=[f"{path.name}-{number}" for number, (path, _) in enumerate(SUITES)]
)
def test_every_suite_shown_is_valid(tmp_path, path, text):
    shown = tmp_path / "shown.yaml"
    shown.write_text(text)
    assert load_suite(shown).name


def test_the_suite_shown_first_runs_and_its_checks_hold_or_are_findings(project):
    own, checks = blocks(ROOT / "README.md", "yaml")[0], blocks(ROOT / "README.md", "python")[0]
    project.suite(own, "chat.yaml")
    (project.path / "suites" / "suite_chat.py").write_text(checks)
    result = project.run("suites/suite_chat.py", "--autotune", "-k", "2048 or defaults")
    assert result.ret == 0, result.stdout.str()
    outcomes = result.parseoutcomes()
    assert outcomes["deployed"] == 3
    assert "errors" not in outcomes


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        if file.startswith("https://"):
            continue
        linked = (path.parent / file) if file else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_every_option_exists(pytester):
    known = pytester.runpytest_subprocess("--help").stdout.str().replace("--junit-xml", "--junit-xml, --junitxml")
    load = [sys.executable, "-m", "pytest_autotune", "load", "--help"]
    history = [*load[:-2], "history", "--help"]
    verbs = [[*load[:-2], "baselines", verb, "--help"] for verb in ("promote", "prune")]
    presets = [*load[:-2], "presets", "--help"]
    importing = [*load[:-2], "import", "--help"]
    new = [*load[:-2], "new", "--help"]
    for command in (load, history, presets, new, importing, *verbs):
        known += subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
    mentioned = {option for path in DOCUMENTS for option in re.findall(r"`(--[a-z-]+)", path.read_text())}
    mentioned |= {word.partition("=")[0] for arguments in PYTEST for word in arguments if word.startswith("--")}
    assert {"--autotune", "--autotune-fresh", "--autotune-store", "--autotune-junit"} <= mentioned
    foreign = {"--name", "--no-name", "--reruns"}  # stand for flags of an engine, and one of pytest-rerunfailures
    assert [option for option in sorted(mentioned - foreign) if not re.search(rf"{option}\b(?!-)", known)] == []
    ini = {
        name for path in DOCUMENTS for name in re.findall(r"`(autotune_(?:suites|store|output)\w*)`", path.read_text())
    }
    assert ini == {"autotune_suites", "autotune_store", "autotune_output"}
    assert [name for name in ini if f"  {name} (" not in known] == []
