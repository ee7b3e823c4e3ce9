from __future__ import annotations

import dataclasses
import json
import os
import subprocess

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pytest_autotune.files import write_atomically
from pytest_autotune.reporting.command import one_line, stable_words
from pytest_autotune.reporting.export import best_document, best_script, write_best
from pytest_autotune.slo import Limit
from pytest_autotune.store import Store
from pytest_autotune.suite import Objective, Price
from tests.make_reports import ARGV, BEST, DEFAULTS, REFUSED, VIOLATING, At, good, report, suite

ECHO = ("/usr/bin/printf", "%s\\0")
SECRET = "very-secret-value"


def echoing(*arguments, **fields):
    return report(dataclasses.replace(BEST, argv=(*ECHO, *arguments)), **fields)


def run(text, tmp_path, **env):
    script = tmp_path / "best.sh"
    script.write_text(text, encoding="utf-8")
    subprocess.run(["sh", "-n", script], check=True)
    clean = {"PATH": os.environ["PATH"], **env}
    done = subprocess.run(["sh", script], env=clean, capture_output=True, check=False)
    return done.stdout.decode().split("\0")[:-1] if done.returncode == 0 else done.stderr.decode()


def script(of):
    return best_script(of, of.selection.best)


def test_the_best_configuration_is_written_with_everything_that_led_to_it(tmp_path):
    of = suite(description="chat traffic", fixed={"max-model-len": 4096, "api-key": SECRET}, env={"HF_TOKEN": SECRET})
    directory = tmp_path / "run" / "chat"
    written = write_best(directory, report(DEFAULTS, BEST, VIOLATING, REFUSED, of=of))
    assert written == (directory / "best.json", directory / "best.sh")
    assert sorted(directory.iterdir()) == sorted(written)
    assert os.access(written[1], os.X_OK)
    document = json.loads(written[0].read_text())
    assert document["schema"] == 1
    assert document["best"]["configuration"] == {"max-num-seqs": 64, "tp": 2}
    assert (document["best"]["score"], document["best"]["concurrency"], document["best"]["capacity"]) == (231.7, 8, 8)
    assert [(b["concurrency"], b["verdict"]) for b in document["best"]["batches"]] == [
        (1, "compliant"),
        (8, "compliant"),
        (16, "violating"),
        (32, "infeasible"),
    ]
    assert document["best"]["batches"][2]["checks"][0] == {
        "metric": "ttft.p90",
        "max": 0.5,
        "actual": 0.612,
        "ratio": pytest.approx(0.224),
        "holds": False,
        "breach": "hard",
        "ruling": None,
        "hard_fail": True,
        "fail_ratio": 0.0,
        "weight": 1.0,
    }
    assert document["best"]["batches"][1]["metrics"]["output_throughput"] == 231.7
    assert document["defaults"]["score"] == 180.5
    assert document["defaults"]["configuration"] == {}
    assert document["fixed"] == {"max-model-len": 4096, "api-key": "***"}
    assert document["measured"]["slo"][1] == {
        "metric": "output_throughput",
        "min": 10.0,
        "hard_fail": True,
        "fail_ratio": 0.0,
        "weight": 1.0,
    }
    assert document["measured"]["load"]["prompt_tokens"] == 512
    assert document["measured"]["objective"] == {"direction": "maximize", "metric": "output_throughput"}
    assert document["measured"]["trials"] == {"compliant": 2, "violating": 1, "infeasible": 1}
    assert document["environment"] == {
        "python": "3.11.9",
        "store": "postgresql://me:***@db/x",
        "load": None,
        "path": "/x",
    }
    assert document["run"] == {
        "id": "20260102-030405",
        "started_at": "2026-01-02T03:04:05Z",
        "finished_at": "2026-01-02T03:14:05Z",
        "elapsed_s": 600.0,
    }
    for path in written:
        assert SECRET not in path.read_text()
        assert "sk-0123" not in path.read_text()


def test_nothing_is_written_when_nothing_complies(tmp_path):
    assert write_best(tmp_path / "run", report(VIOLATING, REFUSED)) == ()
    assert not (tmp_path / "run").exists()


TIERS = {"quick": (Limit("ttft.p90", 0.2),), "never": (Limit("e2e.p90", 1.0),)}


def test_each_tier_has_its_best_and_a_script_of_its_own(tmp_path):
    quick = dataclasses.replace(DEFAULTS, argv=("/bin/serve", "--port", "51234"), batches=(good(4, 60.0, ttft=0.1),))
    told = report(BEST, quick, of=suite(price=Price(per_gpu_hour=2.5)), tiers=TIERS)
    (_, never) = told.tiers
    told = dataclasses.replace(told, tiers=(dataclasses.replace(told.tiers[0], address=At(port=51234)), never))
    written = write_best(tmp_path, told)
    assert [path.name for path in written] == ["best.json", "best.sh", "best.quick.sh"]
    assert os.access(written[2], os.X_OK)
    text = written[2].read_text()
    assert "# Best configuration for tier quick of suite chat (suites/chat.yaml), vllm 0.11.0:\n" in text
    assert 'exec /bin/serve \\\n  --port \\\n  "$PORT"\n' in text
    document = json.loads(written[0].read_text())
    assert document["measured"]["price"] == {"per_gpu_hour": 2.5, "currency": ""}
    best, nothing = document["tiers"]
    assert (best["best"]["configuration"], best["best"]["level"], best["best"]["score"]) == ({}, "c4", 60.0)
    assert (best["slo"][0]["max"], best["binding"]) == (0.2, "nothing: a higher load was not measured")
    assert (nothing["best"], nothing["closest"]) == (None, {})
    assert nothing["binding"].startswith("at concurrency 4: e2e.p90: 4.5 s > 1.0 s")


def test_a_tier_is_written_where_the_suite_has_no_best(tmp_path):
    violating = dataclasses.replace(VIOLATING, argv=ARGV)
    written = write_best(tmp_path, report(violating, tiers={"batch": (Limit("ttft.p90", 60.0),)}))
    assert [path.name for path in written] == ["best.json", "best.batch.sh"]
    document = json.loads(written[0].read_text())
    assert (document["best"], document["tiers"][0]["best"]["score"]) == (None, 950.0)
    assert "sk-0123" not in written[0].read_text() + written[1].read_text()


def test_there_is_no_script_for_a_server_that_was_already_running(tmp_path):
    assert write_best(tmp_path, report(dataclasses.replace(BEST, argv=()))) == (tmp_path / "best.json",)


def test_the_file_is_replaced_whole(tmp_path):
    path = tmp_path / "best.json"
    write_atomically(path, "old")
    before = path.open()
    write_atomically(path, "new")
    assert (before.read(), path.read_text()) == ("old", "new")
    assert list(tmp_path.iterdir()) == [path]
    before.close()


def test_the_script_says_what_it_is_and_has_one_argument_per_line():
    lines = script(report(DEFAULTS, BEST)).splitlines()
    assert lines[0] == "#!/bin/sh"
    assert lines[1:5] == [
        "# Best configuration of suite chat (suites/chat.yaml), vllm 0.11.0:",
        "#   max-num-seqs=64 tp=2",
        (
            "# Measured 2026-01-02T03:06:05Z on 2 x NVIDIA H100: output throughput 231.70 tok/s from concurrency 8 "
            "(2 of 4 batches compliant)."
        ),
        "# Selected from 2 trials in run 20260102-030405; numbers are in best.json.",
    ]
    assert lines[5] == "set -eu"
    start = lines.index("exec /usr/bin/vllm \\")
    assert len(lines) - start == len(ARGV)


def test_the_script_starts_the_server_at_a_stable_address_under_the_models_own_name(tmp_path):
    text = script(echoing(*ARGV[1:]))
    expected = list(ARGV[1:])
    expected[expected.index("--port") + 1] = "8000"
    expected[expected.index("llama-x7f3")] = "meta/Llama 3"
    expected[expected.index("--api-key") + 1] = "mine"
    assert run(text, tmp_path, API_KEY="mine") == expected
    expected[expected.index("8000")] = "9001"
    expected[expected.index("127.0.0.1")] = "0.0.0.0"
    assert run(text, tmp_path, API_KEY="mine", PORT="9001", HOST="0.0.0.0") == expected
    assert "set API_KEY" in run(text, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "environment", "started"),
    [
        pytest.param(["--api-key", "S3CRET"], {"API_KEY": "mine"}, ["--api-key", "mine"], id="two elements"),
        pytest.param(["--hf-token=S3CRET"], {"HF_TOKEN": "mine"}, ["--hf-token=mine"], id="one element"),
        pytest.param(["HF_TOKEN=S3CRET"], {"HF_TOKEN": "mine"}, ["HF_TOKEN=mine"], id="variable"),
        pytest.param(["--url", "http://a:S3CRET@h"], {"URL": "http://me@h"}, ["--url", "http://me@h"], id="URL"),
        pytest.param(['--x={"api_key": "S3CRET"}'], {"X": "{}"}, ["--x={}"], id="JSON"),
        pytest.param(["sk-" + "S3CRET" * 4], {"SECRET": "mine"}, ["mine"], id="by its form"),
    ],
)
def test_a_secret_that_the_store_has_masked_is_asked_for(tmp_path, arguments, environment, started):
    with Store(f"sqlite:///{tmp_path}/results.db") as store:
        store.migrate()
        store.begin_run("run", started_at=BEST.started_at, environment={}, arguments=())
        claim = store.claim("run", "study", "slot", owner="run/1", fresh=False, choose=lambda _: {})
        store.record_deployment(
            claim.trial.id, argv=(*ECHO, *arguments), effective={}, gpus=0, deploy_s=1.0, server_log=""
        )
        argv = store.trial(claim.trial.id).argv
    of = report(dataclasses.replace(BEST, argv=argv))
    (variable,) = environment
    for text in (script(of), one_line(of, argv)):
        assert "S3CRET" not in text
        assert "***" not in text
        assert run(text, tmp_path, **environment) == started
    assert f"set {variable}" in run(script(of), tmp_path)


def test_a_secret_without_a_flag_is_asked_for_too(tmp_path):
    text = script(echoing(SECRET, "--url=http://me:hunter2@host", of=suite(env={"HF_TOKEN": SECRET})))
    assert run(text, tmp_path, HF_TOKEN="x", SECRET="one", URL="two") == ["one", "--url=two"]


@pytest.mark.parametrize(
    ("arguments", "started"),
    [
        pytest.param(["--port=41234", "--x=127.0.0.1"], ["--port=8000", "--x=127.0.0.1"], id="behind an equals sign"),
        pytest.param(["http://127.0.0.1:41234"], ["http://127.0.0.1:41234"], id="never inside an element"),
        pytest.param(["41234", "x"], ["8000", "x"], id="a port without a flag"),
        pytest.param(["--a", "41234", "--b", "41234"], ["--a", "41234", "--b", "41234"], id="which one is unknown"),
        pytest.param(["--a=41234", "--http-port=41234"], ["--a=41234", "--http-port=8000"], id="told by its flag"),
        pytest.param(["-n", "llama-x7f3-lora"], ["-n", "llama-x7f3-lora"], id="another name"),
    ],
)
def test_only_exact_elements_are_made_stable(arguments, started, tmp_path):
    assert run(script(echoing(*arguments)), tmp_path) == started


def test_without_an_address_the_command_line_is_exported_as_it_was(tmp_path):
    assert run(script(echoing("--port", "41234", address=None)), tmp_path) == ["--port", "41234"]


def test_a_model_in_a_directory_is_served_under_the_suites_name(tmp_path):
    for model in ("/models/llama", "./llama", "${MODEL}"):
        of = suite(model=model)
        assert run(script(echoing("llama-x7f3", of=of)), tmp_path) == [of.name]


def test_the_suites_own_model_name_is_kept(tmp_path):
    assert run(script(echoing("llama-x7f3", of=suite(model=None))), tmp_path) == ["chat"]
    assert run(script(echoing("llama-x7f3", of=suite(model_name="served"))), tmp_path) == ["served"]


def test_the_environment_is_exported_and_its_secrets_are_asked_for(tmp_path):
    env = {"HF_TOKEN": SECRET, "GREETING": "it's $HOME", "bad-name": "x", "EMPTY": ""}
    of = suite(env=env)
    stub = ["sh", "-c", 'printf "%s\\0" "$HF_TOKEN" "$GREETING" "$EMPTY" "$OMP_NUM_THREADS"']
    text = script(report(dataclasses.replace(BEST, argv=tuple(stub)), of=of, env={"OMP_NUM_THREADS": "4"}))
    assert SECRET not in text
    assert run(text, tmp_path, HF_TOKEN="given") == ["given", "it's $HOME", "", "4"]
    assert "set HF_TOKEN" in run(text, tmp_path)


def test_a_name_with_a_line_break_cannot_leave_its_comment(tmp_path):
    text = script(echoing("x", of=suite(name="a\necho injected\r\x0b"), path="b\nfalse", engine_version="1\nfalse"))
    assert run(text, tmp_path) == ["x"]


characters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
arguments = st.lists(
    st.one_of(st.text(characters), st.sampled_from(["'", '"$HOME"', "`id`", "\\", "a\nb", "--x=$(id)", "*", ""]))
)


@settings(max_examples=60, deadline=None)
@given(arguments)
def test_every_argument_reaches_the_server_as_it_was(tmp_path_factory, given_arguments):
    directory = tmp_path_factory.mktemp("script")
    of = echoing("-", *given_arguments, address=At("host", 1, "model"))
    words = stable_words(of, of.selection.best.trial.argv)
    assume(all(word.kind == "literal" for word in words))
    assert run(best_script(of, of.selection.best), directory) == ["-", *given_arguments]


def test_the_command_line_can_be_pasted_with_its_environment(tmp_path):
    of = suite(env={"B": "two words", "HF_TOKEN": SECRET})
    stub = ["sh", "-c", 'printf "%s\\0" "$B" "$@"', "sh", "--port", "41234", "--api-key=hidden", "a'b"]
    line = one_line(report(dataclasses.replace(BEST, argv=tuple(stub)), of=of), stub)
    assert run(line, tmp_path, API_KEY="mine") == ["two words", "--port", "8000", "--api-key=mine", "a'b"]
    assert SECRET not in line
    assert "hidden" not in line


def test_the_pareto_front_is_exported_with_its_metrics():
    of = suite(tradeoffs=(Objective(direction="minimize", metric="ttft.p90"),))
    told = report(DEFAULTS, BEST, of=of)
    front = best_document(told, told.selection.best)["pareto_front"]
    assert [(point["trial"], point["level"], point["metrics"]) for point in front] == [
        ("max-num-seqs:64-tp:2", "c8", {"output_throughput": 231.7, "ttft.p90": 0.394}),
        ("max-num-seqs:64-tp:2", "c1", {"output_throughput": 45.0, "ttft.p90": 0.1}),
    ]
