"""`pytest suites/ --autotune` from the user's side: tree, outcomes, gate, reports, exit status."""

import json
import re
import subprocess
from pathlib import Path

import pytest

OOM_SUITE = """\
name: outcomes
engine: sim
model: llama-3.1-8b
parameters:
  max-num-seqs: [2, 64]
  gpu-memory-utilization: [0.9, 0.1]
fixed: {gpu: H100, time-scale: 0.2, max-model-len: 4096}
load: {prompt_tokens: 128, output_tokens: 32, concurrency: [1, 8], duration: 600ms, warmup: 100ms}
slo: {ttft.p90: 40ms}
search: {defaults: false}
timeouts: {stop: 1s}
"""


def test_every_outcome_has_its_category_and_the_build_stays_green(project):
    project.suite(OOM_SUITE)
    result = project.run("suites", "--autotune", "-v", "-rs", "--junitxml=report.xml")
    assert result.ret == 0
    outcomes = result.parseoutcomes()
    assert {key: outcomes[key] for key in ("compliant", "violating", "infeasible", "deployed", "passed")} == {
        "compliant": 3,
        "violating": 1,
        "infeasible": 2,
        "deployed": 2,
        "passed": 1,
    }
    result.stdout.fnmatch_lines(
        [
            "*::max-num-seqs:2-gpu-memory-utilization:0.9::deploy DEPLOYED *max-num-seqs=2**",
            "*::max-num-seqs:2-gpu-memory-utilization:0.9::c1 COMPLIANT *max-num-seqs=2**",
            "*::c8 VIOLATES *max-num-seqs=2* (ttft.p90: * > 40 ms (+*%)*",
            "*::max-num-seqs:2-gpu-memory-utilization:0.1::deploy INFEASIBLE *(out of memory*",
            "*::max-num-seqs:2-gpu-memory-utilization:0.1::c1 SKIPPED*",
            "*::max-num-seqs:64-gpu-memory-utilization:0.1::deploy INFEASIBLE *(not launched: known to run out of *",
            "*::gate PASSED*",
            "SKIPPED*quick.yaml*not deployed: out of memory*",
        ]
    )
    with project.store() as store:
        (run,) = store.runs()
        refused = [trial for trial in store.trials_of_run(run.id) if trial.status == "infeasible"]
    launched, known = refused
    assert (launched.gpus, launched.launched, Path(launched.server_log).exists()) == (1, True, True)
    assert (known.argv, known.launched, known.cause) == ((), False, "out of memory")
    cases = project.testcases()
    name = "suites.quick.yaml.max-num-seqs:2-gpu-memory-utilization:0.9"
    assert cases[f"{name}.c8"].find("skipped").get("type") == "pytest.xfail"
    properties = {p.get("name"): p.get("value") for p in cases[f"{name}.c8"].iter("property")}
    assert properties["param.max-num-seqs"] == "2"
    assert float(properties["ttft.p90"]) > 0.04
    assert cases["suites.quick.yaml.gate"].find("failure") is None


def test_best_script_exports_the_environment_as_the_server_had_it(project, monkeypatch):
    monkeypatch.setenv("PLACE", "/models")
    monkeypatch.setenv("MY_TOKEN", "S3CRET-value")
    suite = project.suite().read_text().replace("[2, 64]", "[64]").replace("engine: sim", "engine: command")
    suite = suite.replace("gpu: H100, time-scale: 0.2, max-model-len: 4096", "gpu: H100, time-scale: 0.2")
    suite += "env: {HF_HOME: '${PLACE}/hub', HF_TOKEN: '${MY_TOKEN}', NOTE: 'with ${MY_TOKEN}'}\n"
    suite += "command: [env, API_KEY=sesame, '{python}', -m, pytest_autotune.engines.sim, --model, llama-3.1-8b, --host, '{host}', --port, '{port}'"
    suite += ", --served-model-name, '{model_name}', '{flags}']\n"
    project.suite(suite)
    result = project.run("suites", "--autotune")
    assert result.ret == 0, result.stdout.str()
    (script,) = (project.path / ".autotune").glob("*/quick/best.sh")
    text = script.read_text()
    assert "export HF_HOME=/models/hub\n" in text
    for name in ("HF_TOKEN", "NOTE", "API_KEY"):
        assert f"${{{name}:?set {name}}}" in text
    assert "***" not in text
    for path in (project.path / ".autotune").rglob("*"):
        assert not path.is_file() or b"S3CRET" not in path.read_bytes()


def test_slo_lines_say_what_complies_and_what_does_not(project):
    project.suite()
    output = project.run("suites", "--autotune", "-v").stdout.str()
    assert "[slo] 2/2 batches compliant" in output
    assert "[slo] 1/2 batches compliant" in output
    assert re.search(r"\[slo\] concurrency=8 violates ttft\.p90: \d+(\.\d+)? ms > 40 ms \(\+\d+ ?%\)", output)
    assert re.search(
        r"\[slo\] best output throughput [\d.]+ tok/s from concurrency 8 \(2 of 2 batches compliant\)", output
    )


def test_gate_fails_and_names_the_binding_limit_when_nothing_complies(project):
    suite = project.suite()
    suite.write_text(suite.read_text().replace("ttft.p90: 40ms", "ttft.p90: 1ms"))
    result = project.run("suites", "--autotune", "--junitxml=report.xml")
    assert result.ret == 1
    assert result.parseoutcomes()["failed"] == 1
    failure = project.testcases()["suites.quick.yaml.gate"].find("failure")
    assert "ttft.p90" in failure.text
    assert "1 ms" in failure.text


def test_best_is_exported_as_json_and_as_a_command_that_starts_the_server(project):
    project.suite()
    assert project.run("suites", "--autotune").ret == 0
    (best,) = (project.path / ".autotune").glob("*/*/best.json")
    content = json.loads(best.read_text())
    assert content["best"]["configuration"] == {"max-num-seqs": 64}
    script = best.with_name("best.sh")
    assert "--max-num-seqs" in script.read_text()
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0


def test_verdict_report_has_stable_names(project):
    project.suite()
    assert project.run("suites", "--autotune", "--autotune-junit=verdict.xml").ret == 0
    cases = project.testcases("verdict.xml")
    assert set(cases) == {"quick.gate.compliant-configuration", "quick.c1", "quick.c8"}


def test_without_autotune_suites_are_skipped_with_one_line_that_says_what_to_do(project):
    project.suite()
    result = project.run("suites", "-rs")
    assert result.ret == 0
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(
        [
            "suites/quick.yaml: skipped: no recorded best*pytest suites/quick.yaml --autotune",
            "SKIPPED [[]1[]] suites/quick.yaml: no recorded best*pytest suites/quick.yaml --autotune",
        ]
    )
    assert not (project.path / ".autotune").exists()


def test_collect_only_shows_the_plan_and_starts_nothing(project):
    project.suite()
    result = project.run("suites", "--autotune", "--collect-only", "-q")
    assert result.outlines[:6] == [
        f"suites/quick.yaml::max-num-seqs:{seqs}::{item}" for seqs in (2, 64) for item in ("deploy", "c1", "c8")
    ]
    assert not (project.path / ".autotune").exists()


@pytest.mark.parametrize(
    ("arguments", "selected"),
    [
        (["-k", "c8"], ["max-num-seqs:2::c8", "max-num-seqs:64::c8"]),
        (["-m", "config(max_num_seqs=64)"], [f"max-num-seqs:64::{item}" for item in ("deploy", "c1", "c8")]),
        (["-m", "config(max_num_seqs=64, concurrency=8)"], ["max-num-seqs:64::c8"]),
        (["suites/quick.yaml::max-num-seqs:64::c1"], ["max-num-seqs:64::c1"]),
        (["suites/quick.yaml::max-num-seqs:2"], [f"max-num-seqs:2::{item}" for item in ("deploy", "c1", "c8")]),
    ],
    ids=["keyword", "marker", "marker with concurrency", "item", "trial"],
)
def test_items_are_selected_as_usual(project, arguments, selected):
    project.suite()
    where = [] if arguments[0].startswith("suites/") else ["suites"]
    result = project.run(*where, *arguments, "--autotune", "--collect-only", "-q")
    assert [line for line in result.outlines if "::" in line] == [f"suites/quick.yaml::{name}" for name in selected]


def test_one_selected_batch_is_measured_without_its_deploy_item_and_judges_no_gate(project):
    project.suite()
    result = project.run("suites/quick.yaml::max-num-seqs:64::c1", "--autotune", "-v")
    assert result.ret == 0
    assert result.parseoutcomes()["compliant"] == 1
    result.stdout.fnmatch_lines(["*gate SKIPPED*0 of 2 trials were finished*"])


def test_one_batch_of_every_trial_judges_no_gate(project):
    project.suite()
    result = project.run("suites", "--autotune", "-v", "-k", "c1")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*gate SKIPPED*0 of 2 trials*"])


def test_a_suite_that_cannot_run_here_says_why_without_being_asked(project):
    project.suite()
    project.suite(
        "name: other\nengine: command\nmodel: /nowhere\ncommand: [no-such-server, '{model}', '{port}']\n", "other.yaml"
    )
    result = project.run("suites", "--autotune", "-k", "preflight")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["suites/other.yaml: skipped: command: no such executable: no-such-server; model: *"])


def test_a_broken_suite_is_one_line_without_a_traceback(project):
    project.suite(project.suite().read_text().replace("objective:", "objectiv:"))
    result = project.run("suites", "--autotune")
    assert result.ret == 2
    lines = result.outlines
    told = next(number for number, line in enumerate(lines) if "ERROR collecting suites/quick.yaml" in line)
    assert lines[told + 1].endswith("quick.yaml:11: objectiv: unknown key (did you mean 'objective'?)")
    assert lines[told + 2].startswith("===")


def test_a_grid_stops_after_so_many_trials(project):
    project.suite(project.suite().read_text().replace("defaults: false", "defaults: true, trials: 2"))
    result = project.run("suites", "--autotune", "--collect-only", "-q", "-k", "deploy")
    trials = [line.split("::")[1] for line in result.outlines if "::" in line]
    assert trials == ["defaults", "max-num-seqs:2"]


def test_a_batch_has_a_deadline(project):
    text = project.suite().read_text()
    text = text.replace("max-model-len: 4096", "max-model-len: 4096, fault: [hang-after-headers=0.5]")
    project.suite(text.replace("timeouts: {", "timeouts: {batch: 2s, "))
    result = project.run("suites/quick.yaml::max-num-seqs:64::c1", "--autotune", "-v")
    assert result.ret == 1
    assert result.parseoutcomes()["errors"] == 1
    result.stdout.fnmatch_lines(["*not finished within 2 s (timeouts.batch)*"])


def test_reruns_are_refused(project):
    project.pytester.makeconftest("def pytest_addoption(parser): parser.addoption('--reruns', type=int)")
    project.suite()
    result = project.run("suites", "--autotune", "--reruns=1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--reruns cannot be combined with suites of pytest-autotune*"])


def test_infrastructure_trouble_is_an_error_and_stops_with_x(project):
    project.suite(
        """\
name: broken
engine: command
model: nothing
command: [sh, -c, "echo the disk is on fire; exit 3", "{port}", "{model_name}", "{flags}"]
parameters: {level: [1, 2]}
load: {prompt_tokens: 8, output_tokens: 4, concurrency: [1], duration: 1s, warmup: 0s}
slo: {ttft.p90: 1s}
search: {defaults: false}
"""
    )
    result = project.run("suites", "--autotune", "-x")
    assert result.ret == 1
    assert result.parseoutcomes() == {"errors": 1} or result.parseoutcomes()["errors"] == 1
    output = result.stdout.str()
    assert "the disk is on fire" in output
    assert "Traceback" not in output
    assert "gate" not in output


FAILS_AT_FIRST = """\
import pathlib, sys
said = pathlib.Path("said")
if not said.exists():
    said.touch()
    sys.exit("{said}")
from pytest_autotune.engines.sim.server import main
sys.exit(main())
"""
FAILING_SUITE = """\
name: once
engine: command
command: ['{python}', serve.py, --model, llama-3.1-8b, --host, '{host}', --port, '{port}', --served-model-name, '{model_name}', '{flags}']
model: llama-3.1-8b
parameters: {max-num-seqs: [2]}
load: {prompt_tokens: 8, output_tokens: 4, concurrency: [1], duration: 500ms, warmup: 0s}
slo: {ttft.p90: 10s}
search: {defaults: false}
"""


@pytest.mark.parametrize(
    ("said", "deployments"),
    [
        pytest.param("HfHubHTTPError: 503 Server Error: Service Unavailable for url: https://hub/m", 2, id="infrastructure"),
        pytest.param("ValueError: max_num_seqs must be a prime", 1, id="finding"),
        pytest.param("RuntimeError: No CUDA GPUs are available", 1, id="driver"),
    ],
)  # fmt: skip
def test_a_server_is_started_once_more_only_when_infrastructure_failed(project, said, deployments):
    (project.path / "serve.py").write_text(FAILS_AT_FIRST.replace("{said}", said))
    project.suite(FAILING_SUITE)
    result = project.run("suites", "--autotune")
    (run,) = (path for path in (project.path / ".autotune").iterdir() if path.is_dir())
    logs = {path.name: said in path.read_text() for path in run.glob("once/*/server*.log")}
    told = (run / "run.log").read_text().count("is deployed once more: infrastructure: 503 Server Error")
    assert told == deployments - 1
    assert len(logs) == deployments
    assert (result.ret == 0) == (deployments == 2), result.stdout.str()
    assert logs["server.log"] == (deployments == 1)


def test_a_run_has_a_log_of_its_own_and_each_trial_its_servers(project):
    project.suite()
    assert project.run("suites", "--autotune").ret == 0
    (run,) = (path for path in (project.path / ".autotune").iterdir() if path.is_dir())
    logged = (run / "run.log").read_text()
    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO .*quick max-num-seqs:2 start", logged, re.MULTILINE)
    assert "[slo] 1/2 batches compliant" in logged
    servers = sorted(run.glob("quick/*/server.log"))
    assert [path.parent.name for path in servers] == ["max-num-seqs_2", "max-num-seqs_64"]
    assert ['"max-num-seqs": 2' in path.read_text() for path in servers] == [True, False]


def test_a_batch_that_outlasts_its_deadline_is_an_error_that_names_the_limit(project):
    suite = project.suite()
    text = suite.read_text().replace("timeouts: {stop: 1s}", "timeouts: {stop: 1s, batch: 300ms}")
    suite.write_text(text.replace("max-num-seqs: [2, 64]", "max-num-seqs: [64]"))
    result = project.run("suites", "--autotune")
    assert result.ret == 1
    assert result.parseoutcomes()["errors"] == 2
    result.stdout.fnmatch_lines(["not finished within 0.3 s (timeouts.batch)"])


BUSY_CLIENT = """\
from dataclasses import replace

from pytest_autotune.load.http import HttpLoad

class Busy(HttpLoad):
    runs = 0

    def run(self, target, level, workload, **keywords):
        measurement = super().run(target, level, workload, **keywords)
        Busy.runs += 1
        told = "client saturated: its event loop ran late" if Busy.runs <= {busy} else None
        return replace(measurement, client=replace(measurement.client, saturated=told))

def pytest_autotune_load_generator(suite):
    return Busy()
"""


@pytest.mark.parametrize(("busy", "errors"), [(1, 0), (2, 1)], ids=["a busy moment", "a client that is too slow"])
def test_a_batch_with_a_saturated_client_is_measured_once_more_before_it_is_an_error(project, busy, errors):
    project.pytester.makeconftest(BUSY_CLIENT.format(busy=busy))
    suite = project.suite()
    suite.write_text(suite.read_text().replace("max-num-seqs: [2, 64]", "max-num-seqs: [64]"))
    result = project.run("suites", "--autotune")
    assert result.ret == errors
    assert result.parseoutcomes().get("errors", 0) == errors
    (logged,) = (project.path / ".autotune").glob("*/run.log")
    assert logged.read_text().count("concurrency=1 is measured once more: client saturated") == 1


COLLECTOR = """\
import gc

def pytest_pycollect_makemodule(module_path):
    print("while collecting:", gc.isenabled())

def pytest_collection_finish():
    print("afterwards:", gc.isenabled())

def pytest_runtestloop():
    print("while running:", gc.isenabled())
"""


@pytest.mark.parametrize(("arguments", "enabled"), [((), True), (("--autotune",), False)])
def test_the_garbage_collector_rests_only_while_trials_are_collected(project, arguments, enabled):
    project.pytester.makeconftest(COLLECTOR)
    project.pytester.makepyfile("def test_it(): pass")
    shown = project.run(*arguments, "-s", "test_the_garbage_collector_rests_only_while_trials_are_collected.py").stdout
    shown.fnmatch_lines([f"while collecting: {enabled}", "*while running: True"])
