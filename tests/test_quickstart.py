"""The quickstart as the README runs it, alone and on four workers: the same best, the same outcomes."""

import json
import shutil
from pathlib import Path

import pytest

SUITE = Path(__file__).parent.parent / "suites" / "quickstart.yaml"


def outcomes(project, report):
    """What became of each test: the outcome that the plugin gave it, else pytest's."""
    found = {}
    for name, case in project.testcases(report).items():
        properties = {p.get("name"): p.get("value") for p in case.iter("property")}
        pytests = next((tag for tag in ("error", "failure", "skipped") if case.find(tag) is not None), "passed")
        found[name] = properties.get("autotune.outcome", pytests)
    return found


@pytest.mark.slow
def test_four_workers_come_to_the_same_best_and_the_same_outcomes_as_one_process(project):
    shutil.copy(SUITE, project.path / "suites")
    came_to = []
    for name, arguments in {"one": [], "four": ["-n4"]}.items():
        output = f"{name}-output"
        result = project.run(
            "suites", "--autotune", *arguments, f"--junitxml={name}.xml", "-o", f"autotune_output={output}"
        )
        assert result.ret == 0, result.stdout.str()
        (best,) = (project.path / output).glob("*/quickstart/best.json")
        came_to.append((json.loads(best.read_text())["best"]["configuration"], outcomes(project, f"{name}.xml")))
    one, four = came_to
    assert one == four
    assert set(one[1].values()) == {"deployed", "compliant", "violating", "infeasible", "skipped", "passed"}
