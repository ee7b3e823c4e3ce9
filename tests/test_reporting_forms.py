"""The forms in which the best server is told to be deployed, each held against its schema or its reader."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pytest_autotune.engines.containers import container_of, settings_start
from pytest_autotune.engines.installation import known_release
from pytest_autotune.engines.sglang import KNOWN, SGLANG
from pytest_autotune.reporting.export import best_forms, write_best
from pytest_autotune.slo import Limit
from pytest_autotune.suite import TimeoutsBlock
from pytest_autotune.suite_docker import DockerBlock
from tests.make_reports import BEST, report, suite

SECRET = "very-secret-value"
ENTRY = ["python3", "-m", "vllm.entrypoints.openai.api_server"]
SETTINGS = ("--max-num-seqs", "64", "--tensor-parallel-size", "2", "--no-enable-prefix-caching")
ADDRESSED = ["--served-model-name", "meta/Llama 3", "--host", "0.0.0.0", "--port", "8000"]
HUB = ["--model", "meta/Llama 3", *ADDRESSED]
FILES = {"docker.sh", "compose.yaml", "kubernetes.yaml", "helm.yaml", "vllm.yaml"}


def argv(*arguments, model="meta/Llama 3"):
    return (
        *("taskset", "-c", "1,2", "/opt/venv/bin/python", "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", model, "--served-model-name", "llama-x7f3", "--host", "127.0.0.1", "--port", "41234"),
        *arguments,
    )


def forms(*arguments, model="meta/Llama 3", gpus=2, tier="", **fields):
    started = dataclasses.replace(BEST, argv=argv(*(arguments or SETTINGS), model=model), gpus=gpus)
    of = report(started, **fields)
    return best_forms(of, of.selection.best, tier=tier)


def run_docker(text, tmp_path, **env):
    """Run the script with a `docker` that tells its command line; return that, or why the script stopped."""
    script, docker = tmp_path / "best.docker.sh", tmp_path / "bin" / "docker"
    script.write_text(text, encoding="utf-8")
    docker.parent.mkdir(exist_ok=True)
    docker.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    docker.chmod(0o755)
    subprocess.run(["sh", "-n", script], check=True)
    clean = {"PATH": f"{docker.parent}:{os.environ['PATH']}", "HOME": "/home/me", **env}
    done = subprocess.run(["sh", script], env=clean, capture_output=True, check=False)
    return done.stdout.decode().split("\0")[:-1] if done.returncode == 0 else done.stderr.decode()


def service_of(text):
    return yaml.safe_load(text)["services"]["server"]


def pod_of(text):
    deployment, _ = yaml.safe_load_all(text)
    return deployment["spec"]["template"]["spec"]


def config_argv(text):
    """Read a configuration file as vLLM does."""
    read = []
    for name, value in yaml.safe_load(text).items():
        values = value if isinstance(value, list) else [] if value is True else [value]
        read += [f"--{name}", *map(str, values)]
    return read


def test_all_forms_are_written_beside_the_script(tmp_path):
    best = dataclasses.replace(BEST, argv=argv(*SETTINGS))
    written = write_best(tmp_path, report(best, tiers={"docker": (Limit("ttft.p90", 0.5),)}))
    names = [path.name for path in written]
    assert names[:3] == ["best.json", "best.sh", "best.docker.sh"]
    assert set(names[3:]) == {f"best.{form}" for form in FILES - {"docker.sh"}} | {
        f"best.docker.{form}" for form in FILES
    }
    assert len(names) == len(set(names))
    assert "for tier docker" in written[2].read_text(), "a tier's script comes before a form of the same name"
    assert [path.name for path in written if os.access(path, os.X_OK)] == [
        name for name in names if name.endswith(".sh")
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"of": suite(engine="sim")}, set(), id="an engine without an image"),
        pytest.param({"of": suite(engine="their-own")}, set(), id="an engine of a plugin"),
        pytest.param({"engine_version": "0.11.1.dev3+gabc"}, {"vllm.yaml"}, id="no release"),
        pytest.param({"engine_version": ""}, {"vllm.yaml"}, id="an unknown version"),
        pytest.param({"model": f"http://me:{SECRET}@host/model"}, set(), id="a model with a password"),
    ],
)
def test_forms_are_told_of_what_can_be_started(fields, expected):
    assert forms(**fields).keys() == expected


@pytest.mark.parametrize(
    ("image", "named"),
    [
        ("ours/vllm:v7", "ours/vllm:v7"),
        ("host:5000/vllm", "host:5000/vllm:latest"),
        ("vllm", "vllm:latest"),
        ("ours/vllm@sha256:0a1b", "ours/vllm@sha256:0a1b"),
    ],
)
def test_a_server_that_ran_in_a_container_keeps_its_image_and_its_python(image, named):
    boxed = suite(deploy="docker", docker=DockerBlock(image=image), engine_python="/opt/python")
    written = forms(of=boxed, engine_version="0.11.1.dev3+gabc")
    service = service_of(written["compose.yaml"])
    assert (service["image"], service["entrypoint"][0]) == (named, "/opt/python")
    assert f" {named} " in written["docker.sh"].replace("\\\n", " ")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("vllm", "serve", "m", "--port", "1"), id="another command"),
        pytest.param(argv()[:-1], id="cut short"),
        pytest.param(("python", *argv()[4:6], "--port", "1", *argv()[6:12]), id="another order"),
        pytest.param((), id="no command"),
    ],
)
def test_a_command_line_that_was_not_made_here_is_not_taken_apart(command):
    assert settings_start(command) is None


@pytest.mark.parametrize(
    ("version", "gpus", "image"),
    [
        ("0.11.0", 1, "vllm/vllm-openai:v0.11.0"),
        ("0.11.0+cu129", 8, "vllm/vllm-openai:v0.11.0"),
        ("0.12.0rc2", 1, "vllm/vllm-openai:v0.12.0rc2"),
        ("0.10.1.post1", 1, "vllm/vllm-openai:v0.10.1.post1"),
        ("0.32.0+cpu", 0, "public.ecr.aws/q9t5s3a7/vllm-cpu-release-repo:v0.32.0"),
        ("0.11.1.dev3+gabc", 1, "vllm/vllm-openai:"),
    ],
)
def test_the_image_is_that_of_the_version_and_of_the_hardware(version, gpus, image):
    container = container_of("vllm", version, gpus=gpus)
    assert f"{container.repository}:{container.tag}" == image


def test_docker_gets_the_servers_arguments_and_a_stable_address(tmp_path):
    text = forms(env={"OMP_NUM_THREADS": "4", "VLLM_SERVER_DEV_MODE": "1", "HF_HOME": "/mine"})["docker.sh"]
    mount = "/home/me/.cache/huggingface:/root/.cache/huggingface"
    expected = [
        *("run", "--rm", "--gpus", "2", "--ipc", "host", "--publish", "127.0.0.1:8000:8000", "--volume", mount),
        *("--env", "HF_TOKEN", "--env", "OMP_NUM_THREADS=4", "--entrypoint", "python3", "vllm/vllm-openai:v0.11.0"),
        *(*ENTRY[1:], *HUB, *SETTINGS),
    ]
    assert run_docker(text, tmp_path) == expected
    expected[7], expected[9] = "0.0.0.0:9000:8000", "/hub:/root/.cache/huggingface"
    assert run_docker(text, tmp_path, HOST="0.0.0.0", PORT="9000", HF_HOME="/hub") == expected


def test_docker_is_given_the_directory_of_a_local_model(tmp_path):
    text = forms("--max-num-seqs", "8", model='/models/my, "own" model', gpus=0)["docker.sh"]
    assert run_docker(text, tmp_path) == [
        *("run", "--rm", "--ipc", "host", "--publish", "127.0.0.1:8000:8000"),
        *("--mount", 'type=bind,"source=/models/my, ""own"" model",target=/model,readonly'),
        *("--entrypoint", "python3", "public.ecr.aws/q9t5s3a7/vllm-cpu-release-repo:v0.11.0"),
        *(*ENTRY[1:], "--model", "/model", *ADDRESSED, "--max-num-seqs", "8"),
    ]


def test_compose_starts_the_same_server():
    text = forms(env={"GREETING": "costs $5", "yes": "on"})["compose.yaml"]
    assert text.startswith(
        "# Best configuration of suite chat (suites/chat.yaml), vllm 0.11.0:\n#   max-num-seqs=64 tp=2\n"
    )
    assert yaml.safe_load(text)["name"] == "chat"
    service = service_of(text)
    assert (service["image"], service["entrypoint"]) == ("vllm/vllm-openai:v0.11.0", ENTRY)
    assert service["command"] == [*HUB, *SETTINGS]
    assert service["environment"] == {"HF_TOKEN": None, "GREETING": "costs $$5", "yes": "on"}
    device = {"driver": "nvidia", "count": 2, "capabilities": ["gpu"]}
    assert service["deploy"] == {"resources": {"reservations": {"devices": [device]}}}
    assert service["ports"] == ["${HOST:-127.0.0.1}:${PORT:-8000}:8000"]
    assert service["healthcheck"]["start_period"] == "600s"
    (volume,) = service["volumes"]
    assert (volume["source"], volume["target"]) == (
        "${HF_HOME:-${HOME}/.cache/huggingface}",
        "/root/.cache/huggingface",
    )


def test_kubernetes_starts_the_same_server():
    of = suite(name="Chat: 4 köpfe", timeouts=TimeoutsBlock(start=901))
    text = forms(of=of, tier="quick", env={"GREETING": "$(HOME)"})["kubernetes.yaml"]
    deployment, service = yaml.safe_load_all(text)
    assert deployment["metadata"]["name"] == service["metadata"]["name"] == "chat-4-k-pfe-quick"
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    (container,) = pod_of(text)["containers"]
    assert container["command"] == ENTRY
    assert container["args"] == [*HUB, *SETTINGS]
    token = {"name": "chat-4-k-pfe-quick-secrets", "key": "HF_TOKEN", "optional": True}
    assert container["env"] == [
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": token}},
        {"name": "GREETING", "value": "$$(HOME)"},
    ]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
    startup = container["startupProbe"]
    assert (startup["httpGet"], startup["periodSeconds"], startup["failureThreshold"]) == (
        {"path": "/health", "port": "http"},
        10,
        91,
    )
    assert container["readinessProbe"]["httpGet"] == container["livenessProbe"]["httpGet"] == startup["httpGet"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"dshm": "/dev/shm", "cache": "/root/.cache/huggingface"}
    assert {volume["name"] for volume in pod_of(text)["volumes"]} == mounts.keys()


def test_the_chart_starts_the_same_server():
    spec = yaml.safe_load(forms()["helm.yaml"])["servingEngineSpec"]
    assert spec["startupProbe"]["failureThreshold"] == 60
    (model,) = spec["modelSpec"]
    assert (model["name"], model["repository"], model["tag"]) == ("chat", "vllm/vllm-openai", "v0.11.0")
    assert (model["modelURL"], model["requestGPU"]) == ("meta/Llama 3", 2)
    served = ["--served-model-name", "meta/Llama 3"]
    assert model["vllmConfig"] == {"enablePrefixCaching": False, "extraArgs": [*served, *SETTINGS]}
    assert {volume["name"] for volume in model["extraVolumes"]} == {"dshm"}
    assert "runtimeClassName" not in spec


def test_the_chart_keeps_prefix_caching_as_it_was():
    (model,) = yaml.safe_load(forms("--max-num-seqs", "8")["helm.yaml"])["servingEngineSpec"]["modelSpec"]
    assert model["vllmConfig"]["enablePrefixCaching"] is True


def test_a_local_model_is_a_claim_on_kubernetes():
    told = forms(model="/models/mine", gpus=0)
    pod = pod_of(told["kubernetes.yaml"])
    (model,) = yaml.safe_load(told["helm.yaml"])["servingEngineSpec"]["modelSpec"]
    claim = {"name": "model", "persistentVolumeClaim": {"claimName": "chat-model", "readOnly": True}}
    mount = {"name": "model", "mountPath": "/model", "readOnly": True}
    assert claim in pod["volumes"]
    assert claim in model["extraVolumes"]
    assert mount in pod["containers"][0]["volumeMounts"]
    assert mount in model["extraVolumeMounts"]
    assert model["modelURL"] == pod["containers"][0]["args"][1] == "/model"
    remark = "# The model was /models/mine: its files must be in the claim chat-model.\n"
    for form in ("kubernetes.yaml", "helm.yaml"):
        assert remark in told[form]
        assert "secret" not in told[form], "a model that is there needs no token"


def test_no_gpu_is_asked_for_where_none_was_used():
    told = forms(gpus=0)
    assert "--gpus" not in told["docker.sh"]
    assert "deploy" not in service_of(told["compose.yaml"])
    assert "resources" not in pod_of(told["kubernetes.yaml"])["containers"][0]
    spec = yaml.safe_load(told["helm.yaml"])["servingEngineSpec"]
    assert (spec["runtimeClassName"], spec["modelSpec"][0]["requestGPU"]) == ("", 0)


def test_the_configuration_file_becomes_the_command_line():
    told = forms(
        "--max-num-seqs", "64", "--rate", "0.90", "--seed=-1", "--word=-x", "--enforce-eager", "--many", "a", "7"
    )
    assert yaml.safe_load(told["vllm.yaml"]) == {
        "model": "meta/Llama 3",
        "served-model-name": "meta/Llama 3",
        "host": "127.0.0.1",
        "port": 8000,
        "max-num-seqs": 64,
        "rate": "0.90",
        "seed": -1,
        "word=-x": True,
        "enforce-eager": True,
        "many": ["a", 7],
    }
    assert "\nmax-num-seqs: 64\n" in told["vllm.yaml"]


def test_secrets_are_referred_to_by_name(tmp_path):
    env = {"HF_TOKEN": SECRET, "NOTE": f"with {SECRET}", "bad-name": "x"}
    of = suite(env=env, fixed={"hub-api-key": "sesame-open"})
    told = forms("--hub-api-key", "sesame-open", "--x=sesame-open", "--max-num-seqs", "8", of=of)
    for text in told.values():
        assert SECRET not in text
        assert "sesame" not in text
        assert "***" not in text
        assert "# bad-name was set too; that is no name for a variable here.\n" in text
    given = {"HF_TOKEN": "t", "NOTE": "n", "HUB_API_KEY": "k", "X": "x"}
    started = run_docker(told["docker.sh"], tmp_path, **given)
    assert started[-5:] == ["--hub-api-key", "k", "--x=x", "--max-num-seqs", "8"]
    assert [started[at + 1] for at, word in enumerate(started) if word == "--env"] == ["HF_TOKEN", "NOTE"]
    for name in given:
        assert f"set {name}" in run_docker(told["docker.sh"], tmp_path, **{**given, name: ""})
    service = service_of(told["compose.yaml"])
    assert service["environment"] == {"HF_TOKEN": "${HF_TOKEN:?set HF_TOKEN}", "NOTE": "${NOTE:?set NOTE}"}
    assert service["command"][-5:-2] == ["--hub-api-key", "${HUB_API_KEY:?set HUB_API_KEY}", "--x=${X:?set X}"]
    (container,) = pod_of(told["kubernetes.yaml"])["containers"]
    (model,) = yaml.safe_load(told["helm.yaml"])["servingEngineSpec"]["modelSpec"]
    references = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": "chat-secrets", "key": name}}} for name in given
    ]
    assert container["env"] == model["env"] == references
    assert container["args"][-5:-2] == ["--hub-api-key", "$(HUB_API_KEY)", "--x=$(X)"]
    assert model["vllmConfig"]["extraArgs"] == ["--served-model-name", "meta/Llama 3", *container["args"][-5:]]
    assert config_argv(told["vllm.yaml"])[8:] == ["--max-num-seqs", "8"]
    assert "# Set in its environment: HF_TOKEN, NOTE.\n" in told["vllm.yaml"]
    assert "# --hub-api-key holds a secret: say it on the command line.\n" in told["vllm.yaml"]


def test_files_that_settings_name_are_told():
    told = forms("--chat-template", "/srv/chat.jinja", "--tokenizer=./own")
    for text in told.values():
        assert "# If /srv/chat.jinja is a file of the machine that measured, it must be there, too.\n" in text
        assert "# If ./own is a file" in text


@pytest.mark.parametrize("name", ["", "4you", "ÄÖ", "a" * 80, "x" * 49 + "-y", "UPPER_case.dot"])
def test_every_suite_has_a_name_for_kubernetes(name):
    label = yaml.safe_load(forms(of=suite(name=name))["helm.yaml"])["servingEngineSpec"]["modelSpec"][0]["name"]
    assert label[0].isalpha()
    assert label[-1].isalnum()
    assert set(label) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(f"{label}-secrets") <= 63


def test_a_name_with_a_line_break_cannot_leave_its_comment(tmp_path):
    told = forms(of=suite(name="a\ninjected: 1\u2028\x0b"), path="b\nfalse")
    assert run_docker(told["docker.sh"], tmp_path)[0] == "run"
    for form in FILES - {"docker.sh"}:
        assert "injected" not in next(yaml.safe_load_all(told[form]))


def awkward(gpus):
    env = {"HF_TOKEN": SECRET, "A": "yes", "B": "1e3", "C": "$(X) ${Y}", "D": "a: b # c\n- d"}
    return suite(env=env), ("--max-num-seqs", "64", "--x", "on", "--y", "- 1: {2}\n# 'ü", "--key=k"), gpus


@pytest.mark.parametrize("model", ["meta/Llama", "/models/it's: mine"])
@pytest.mark.parametrize("gpus", [0, 8])
def test_kubernetes_takes_the_manifest(model, gpus):
    of, arguments, gpus = awkward(gpus)
    deployment, service = yaml.safe_load_all(forms(*arguments, of=of, model=model, gpus=gpus)["kubernetes.yaml"])
    for document in (deployment, service):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    del deployment["spec"]["selector"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("model", ["meta/Llama", "/models/it's: mine"])
@pytest.mark.parametrize("gpus", [0, 8])
def test_compose_takes_the_file(tmp_path, model, gpus):
    of, arguments, gpus = awkward(gpus)
    path = tmp_path / "compose.yaml"
    path.write_text(forms(*arguments, of=of, model=model, gpus=gpus)["compose.yaml"], encoding="utf-8")
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


SGLANG_FILES = {"docker.sh", "compose.yaml", "kubernetes.yaml", "sglang.yaml"}


def sglang_forms(*arguments, model="meta/Llama 3", gpus=2, **fields):
    started = (
        *(
            "/opt/venv/bin/python",
            "-m",
            "sglang.launch_server",
            "--model-path",
            model,
            "--served-model-name",
            "llama-x7f3",
        ),
        *("--host", "127.0.0.1", "--port", "41234", *arguments),
    )
    fields = {"of": suite(engine="sglang"), "engine_version": "0.5.23", **fields}
    of = report(dataclasses.replace(BEST, argv=started, gpus=gpus), **fields)
    return best_forms(of, of.selection.best)


def sglang_argv(text):
    """Read a configuration file as SGLang does, with the parser of its known flags; return what it makes of it."""
    flags = known_release(SGLANG, KNOWN).flags
    parser = argparse.ArgumentParser(exit_on_error=False)
    for name, flag in flags.items():
        kind = {"action": "store_true"} if flag.boolean else {"nargs": "+" if flag.many else None}
        parser.add_argument(f"--{name}", **kind)
    read = []
    for name, value in yaml.safe_load(text).items():
        switched = isinstance(value, bool) and flags[name].boolean
        values = value if isinstance(value, list) else [] if switched else [value]
        read += [f"--{name}", *map(str, values)] if value is not False else []
    told = vars(parser.parse_args(read)).items()
    return {name.replace("_", "-"): value for name, value in told if value not in (None, False)}


SGLANG_SETTINGS = (
    "--enable-metrics",
    "--tp-size",
    "2",
    "--cuda-graph-bs-decode",
    "1",
    "2",
    "--mem-fraction-static",
    "0.85",
)


def test_sglang_reads_its_configuration_file_as_the_command_line():
    told = sglang_forms(*SGLANG_SETTINGS, "--chunked-prefill-size=-1")
    assert told.keys() == SGLANG_FILES
    assert sglang_argv(told["sglang.yaml"]) == {
        "model-path": "meta/Llama 3",
        "served-model-name": "meta/Llama 3",
        "host": "127.0.0.1",
        "port": "8000",
        "enable-metrics": True,
        "tp-size": "2",
        "cuda-graph-bs-decode": ["1", "2"],
        "mem-fraction-static": "0.85",
        "chunked-prefill-size": "-1",
    }
    remark = "# --chat-template=-x cannot be told here: say it on the command line.\n"
    assert remark in sglang_forms("--chat-template=-x")["sglang.yaml"]


@pytest.mark.parametrize("model", ["meta/Llama", "/models/it's: mine"])
def test_sglangs_containers_start_the_same_server(tmp_path, model):
    told = sglang_forms(*SGLANG_SETTINGS, model=model)
    entry = ["python3", "-m", "sglang.launch_server"]
    command = [
        "--model-path",
        "/model" if model.startswith("/") else "meta/Llama",
        "--served-model-name",
        "meta/Llama 3",
    ]
    command += ["--host", "0.0.0.0", "--port", "8000", *SGLANG_SETTINGS]
    service, (container,) = service_of(told["compose.yaml"]), pod_of(told["kubernetes.yaml"])["containers"]
    assert (service["image"], service["entrypoint"], service["command"]) == ("lmsysorg/sglang:v0.5.23", entry, command)
    assert (container["image"], container["command"], container["args"]) == (service["image"], entry, command)
    assert container["readinessProbe"]["httpGet"]["path"] == "/health"
    for document in yaml.safe_load_all(told["kubernetes.yaml"]):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    path = tmp_path / "compose.yaml"
    path.write_text(told["compose.yaml"], encoding="utf-8")
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    ran = run_docker(told["docker.sh"], tmp_path)
    assert ran[ran.index("--entrypoint") :] == ["--entrypoint", "python3", service["image"], *entry[1:], *command]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({"gpus": 0}, {"sglang.yaml"}), ({"engine_version": "0.6.0.dev1+gabc"}, {"sglang.yaml"})],
    ids=["no image for processors", "no release"],
)
def test_sglangs_forms_are_told_of_what_can_be_started(fields, expected):
    assert sglang_forms(*SGLANG_SETTINGS, **fields).keys() == expected


def filled_in(text, *, opening):
    """Take back what keeps a reader of variables from filling them in; there must be none."""
    assert opening not in text.replace("$$", "")
    return text.replace("$$", "$")


characters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
strings = st.one_of(
    st.text(characters),
    st.sampled_from(
        ["'", '"', "a: b", "# c", "- d", "a\nb\n", "$(id)", "${X}", "$$", "\\", "no", "0x1f", "1_0", "1:30"]
    ),
    st.sampled_from(
        ["null", "~", "1e5", ".5", "5.", "+1", "007", "2026-01-01", "{}", "[1]", "*a", "&a", "!b", "%c", "@", "`"]
    ),
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c.d", "e-f"]), strings, min_size=1), strings)
def test_every_value_reaches_the_server_as_it_was(tmp_path_factory, given_settings, value):
    arguments = []
    for name, text in given_settings.items():
        arguments += [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
    told = forms(*arguments, env={"VALUE": value})
    assume("holds a secret" not in told["vllm.yaml"])
    assume("--env VALUE \\\n" not in told["docker.sh"])  # a secret by its form
    service, pod = service_of(told["compose.yaml"]), pod_of(told["kubernetes.yaml"])
    (model,) = yaml.safe_load(told["helm.yaml"])["servingEngineSpec"]["modelSpec"]
    (container,) = pod["containers"]
    assert [filled_in(word, opening="$") for word in service["command"]] == [*HUB, *arguments]
    assert filled_in(service["environment"]["VALUE"], opening="$") == value
    assert [filled_in(word, opening="$") for word in container["args"]] == [*HUB, *arguments]
    assert filled_in(container["env"][-1]["value"], opening="$") == value
    assert [filled_in(word, opening="$") for word in model["vllmConfig"]["extraArgs"][2:]] == arguments
    assert config_argv(told["vllm.yaml"])[8:] == list(_split_numbers(arguments))
    assert run_docker(told["docker.sh"], tmp_path_factory.mktemp("docker"))[-len(arguments) :] == arguments


def _split_numbers(arguments):
    """A negative number stands behind its flag in a configuration file, where vLLM reads the same."""
    for argument in arguments:
        name, _, value = argument.partition("=")
        try:
            number = argument.startswith("--") and value and str(json.loads(value)) == value
        except ValueError:
            number = False
        yield from (name, value) if number else (argument,)
