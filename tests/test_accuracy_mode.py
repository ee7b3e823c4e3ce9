"""The accuracy gate from the user's side: what quantizes may win only with answers that are still right."""

import json

import pytest

# Of the two configurations the one with a quantized cache is by far the faster.
SUITE = """\
name: lossy
engine: sim
model: llama-3.1-8b
parameters:
  kv-cache-dtype: [auto, fp8]
  max-num-seqs: [2, 64]
forbidden:
  - {kv-cache-dtype: auto, max-num-seqs: 64}
  - {kv-cache-dtype: fp8, max-num-seqs: 2}
fixed: {gpu: H100, time-scale: 0.2, max-model-len: 4096, fault: [wrong-with-fp8=0.5]}
load: {prompt_tokens: 128, output_tokens: 32, concurrency: [8], duration: 400ms, warmup: 50ms}
search: {defaults: false}
timeouts: {stop: 1s}
"""
FAULT = "fault: [wrong-with-fp8=0.5]"
NO_FAULT = "fault: []"
ONLY_FP8 = SUITE.replace("[auto, fp8]", "[fp8]").replace("  - {kv-cache-dtype: auto, max-num-seqs: 64}\n", "")
FP8 = {"kv-cache-dtype": "fp8", "max-num-seqs": 64}
AUTO = {"kv-cache-dtype": "auto", "max-num-seqs": 2}
WHY = "answers 12 of 24 prompts, the reference 24 (95 % asked for); the KV cache is kept in fp8"


def best(project):
    path = max((project.path / ".autotune").glob("*/lossy/best.json"), key=lambda file: file.stat().st_mtime_ns)
    return json.loads(path.read_text())


def winner(project):
    return best(project)["best"]["configuration"]


def test_what_is_fastest_and_answers_wrongly_does_not_win_until_less_is_asked_for(project):
    suite = project.suite(SUITE)
    result = project.run("suites", "--autotune", "-v")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            f"*fp8*::deploy VIOLATES * ({WHY})*",
            "*lossy on sim*1 compliant, 1 violating*2 servers started*",
            f"  cannot win: kv-cache-dtype=fp8 max-num-seqs=64 {WHY}",
        ]
    )
    assert winner(project) == AUTO
    (lossy,) = best(project)["accuracy"]["trials"]
    assert (lossy["configuration"], lossy["holds"], lossy["reason"]) == (FP8, False, WHY)
    assert (lossy["kept"], lossy["asked"], lossy["reference"], len(lossy["missed"])) == (12, 24, 24, 12)
    assert all(missed["answer"] for missed in lossy["missed"])

    resumed = project.run("suites", "--autotune")
    resumed.stdout.fnmatch_lines(["*1 compliant, 1 violating*2 recorded before, 0 servers started*"])
    assert winner(project) == AUTO

    suite.write_text(SUITE + "accuracy: 50%\n")
    project.run("suites", "--autotune-rejudge").stdout.fnmatch_lines(
        ["*2 compliant*0 servers started*", "*accuracy: answers 12 of 24 prompts, the reference 24 (50 % asked for)*"]
    )
    assert winner(project) == FP8

    suite.write_text(SUITE + "accuracy: none\n")
    project.run("suites", "--autotune-rejudge").stdout.fnmatch_lines(["*2 compliant*0 servers started*"])
    assert winner(project) == FP8
    assert best(project)["accuracy"] == {"gate": None, "trials": []}


def test_what_keeps_its_answers_wins_and_is_verified_by_them(project):
    suite = project.suite(SUITE.replace(FAULT, NO_FAULT))
    assert project.run("suites", "--autotune", "--autotune-record").ret == 0
    assert winner(project) == FP8
    record = json.loads(suite.with_name("quick.best.json").read_text())
    assert record["accuracy"]["kept"] == record["accuracy"]["asked"] == len(record["accuracy"]["reference"]) == 24

    verified = project.run("suites", "-v")
    assert verified.ret == 0
    verified.stdout.fnmatch_lines(["*holds: * answers 24 of 24 prompts, the reference 24*"])

    suite.write_text(SUITE)
    broken = project.run("suites", "-v")
    assert broken.ret == 1
    broken.stdout.fnmatch_lines(["*::best::deploy FAILED*", f"*accuracy: * {WHY}*", f"*BROKEN: * {WHY}*"])
    assert broken.parseoutcomes()["failed"] == 2


def test_two_workers_judge_by_the_answers_of_both(project):
    project.suite(SUITE)
    result = project.run("suites", "--autotune", "-n", "2")
    assert result.ret == 0
    assert winner(project) == AUTO
    result.stdout.fnmatch_lines([f"  cannot win: kv-cache-dtype=fp8 max-num-seqs=64 {WHY}"])


def test_what_was_measured_without_being_asked_is_measured_again(project):
    suite = project.suite(SUITE + "accuracy: none\n")
    assert project.run("suites", "--autotune").ret == 0
    assert winner(project) == FP8
    suite.write_text(SUITE)
    unasked = "*cannot win: * was measured without these prompts, run --autotune again to ask them; *"
    project.run("suites", "--autotune-rejudge").stdout.fnmatch_lines([unasked])
    assert winner(project) == AUTO
    project.run("suites", "--autotune").stdout.fnmatch_lines(["*1 compliant, 1 violating*, 1 server started*"])
    (lossy,) = best(project)["accuracy"]["trials"]
    assert (lossy["kept"], lossy["asked"], lossy["reference"]) == (
        12,
        24,
        None,
    )  # of the expected answers: none is exact


def test_without_anything_accurate_the_gate_fails_and_says_what_to_do(project):
    project.suite(ONLY_FP8)
    result = project.run("suites", "--autotune")
    assert result.ret == 1
    why = (
        "answers 12 of 24 prompts (95 % asked for, and there is no reference without loss); the KV cache is kept in fp8"
    )
    result.stdout.fnmatch_lines([f"*1 trial cannot win by its answers: *{why}. Ask for less (accuracy:), *"])


def test_a_server_that_dies_of_the_questions_is_no_start_that_failed(project):
    prompts = [{"prompt": f"Tell me the story of the {index} bears."} for index in range(8)]
    (project.path / "suites" / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    asked = "accuracy: {prompts: prompts.jsonl, max_tokens: 256}\n"
    project.suite(ONLY_FP8.replace(FAULT, "fault: [oom-at-concurrency=2]") + asked)
    result = project.run("suites", "--autotune")
    assert result.parseoutcomes()["infeasible"] == 1
    with project.store() as store:
        (trial,) = store.trials_of_run(store.runs()[0].id)
        assert (trial.cause, trial.batches) == ("out of memory", ())
        assert trial.deploy_s is not None
        assert store.starts() == ()


def test_prompts_of_ones_own_without_an_answer_are_kept_by_agreement(project):
    asked = [{"prompt": f"Tell me the story of the {index} bears."} for index in range(8)]
    asked += [{"messages": [{"role": "user", "content": "Anything?"}], "pattern": "[a-z]"}]
    project.suite(SUITE + "accuracy: {prompts: prompts.jsonl, least: 100%, max_tokens: 8}\n")
    prompts = project.path / "suites" / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in asked))
    result = project.run("suites", "--autotune")
    assert result.ret == 0
    (lossy,) = best(project)["accuracy"]["trials"]
    assert (lossy["asked"], lossy["reference"]) == (9, 9)
    assert 1 <= lossy["kept"] < 9
    assert not any(missed["question"] == 9 for missed in lossy["missed"])


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            None,
            "*quick.yaml:*: accuracy: there is no file *prompts.jsonl; a relative path counts from the suite's file*",
        ),
        ('{"prompt": "a"}\n{"promt": "b"}\n', "*prompts.jsonl:2: promt: unknown key (did you mean 'prompt'?)*"),
    ],
    ids=["missing", "line"],
)
def test_a_file_of_prompts_that_cannot_be_used_stops_the_run_before_any_server(project, lines, problem):
    project.suite(SUITE + "accuracy: {prompts: prompts.jsonl}\n")
    if lines is not None:
        (project.path / "suites" / "prompts.jsonl").write_text(lines)
    result = project.run("suites", "--autotune")
    assert result.ret == 2
    result.stdout.fnmatch_lines([problem])
