"""What a run records about where it ran, and what it never records."""

import json
import os
import subprocess

import pytest

from pytest_autotune.environment import describe, mask, mask_argv, mask_text

SECRETS = [
    "HF_TOKEN",
    "hf-token",
    "HUGGING_FACE_HUB_TOKEN",
    "OPENAI_API_KEY",
    "api_key",
    "apiKey",
    "--api-key",
    "APIKEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "MY_TOKEN_PROD",
    "PGPASSWORD",
    "db.password",
    "client_secret",
    "clientSecret",
    "CREDENTIALS",
]
PLAIN = [
    ("prompt_tokens", 512),
    ("max-num-batched-tokens", "8192"),
    ("long-prefill-token-threshold", "2048"),
    ("tokenizer", "meta-llama/Llama-3.1-8B"),
    ("tokenizer-mode", "auto"),
    ("TOKENIZERS_PARALLELISM", "false"),
    ("keyboard", "us"),
    ("ssl-keyfile", "server.pem"),
    ("HF_HOME", "/models"),
    ("url", "http://user@host:8000/v1?model=a@b"),
    ("api_key", None),
    ("api_key", ""),
]


@pytest.mark.parametrize("name", SECRETS)
def test_value_of_a_secret_name_is_masked_wherever_it_stands(name):
    assert mask({name: "S3CRET", "env": {name: "S3CRET"}, "list": [{name: ["S3CRET"]}]}) == {
        name: "***",
        "env": {name: "***"},
        "list": [{name: ["***"]}],
    }
    flag = f"--{name.lstrip('-')}"
    assert mask_argv(["serve", flag, "S3CRET", "rest"]) == ("serve", flag, "***", "rest")
    assert mask_argv([f"{flag}=S3CRET", f"{name}=S3CRET"]) == (f"{flag}=***", f"{name}=***")


@pytest.mark.parametrize(("name", "value"), PLAIN)
def test_what_is_no_secret_is_kept(name, value):
    assert mask({name: value}) == {name: value}
    if value:
        flag = f"--{name}"
        assert mask_argv([flag, str(value)]) == (flag, str(value))
        assert mask_argv([f"{flag}={value}"]) == (f"{flag}={value}",)


def test_flag_without_a_value_does_not_hide_the_next_flag():
    assert mask_argv(["--api-key", "--port", "8000"]) == ("--api-key", "--port", "8000")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:S3CRET@host/db", "postgresql://me:***@host/db"),
        ("postgresql+psycopg://me:S3:C/RET@host/db", "postgresql+psycopg://me:***@host/db"),
        ("see https://:S3CRET@host and http://a:S3CRET@b", "see https://:***@host and http://a:***@b"),
        ("postgresql://host/db?user=me&password=S3CRET&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("Authorization: Bearer S3CRET-12345", "Authorization: Bearer ***"),
        ("got hf_S3CRETabcdefghijklmnop for it", "got *** for it"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("http://host:8000/a and b@c", "http://host:8000/a and b@c"),
        ("12:30 a@b", "12:30 a@b"),
    ],
)
def test_secrets_within_text_are_masked(text, shown):
    assert mask_text(text) == shown
    assert mask({"url": [text]}) == {"url": [shown]}


@pytest.fixture
def repository(tmp_path):
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*arguments):
        command = ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e@x", *arguments]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q", "-b", "trunk")
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "chat.yaml").write_text("name: chat\n")
    git("add", "-A")
    git("commit", "-q", "-m", "Begin")
    return git


def test_revision_branch_and_dirt_of_the_suites_are_told(tmp_path, repository):
    suites = tmp_path / "suites"
    revision = repository("rev-parse", "HEAD")
    assert describe(suites)["git"] == {"revision": revision, "branch": "trunk", "dirty": False}

    (tmp_path / "elsewhere.txt").write_text("not of these suites")
    for results in (suites / ".autotune", tmp_path / ".autotune"):
        results.mkdir()
        (results / "results.db").write_text("")
    assert describe(suites)["git"]["dirty"] is False

    (suites / "new.yaml").write_text("name: new\n")
    assert describe(suites)["git"]["dirty"] is True
    (suites / "new.yaml").unlink()
    (suites / "chat.yaml").write_text("name: other\n")
    assert describe(suites)["git"]["dirty"] is True
    repository("checkout", "-q", "--detach")
    assert describe(suites)["git"] == {"revision": revision, "dirty": True}


def test_what_is_not_there_is_absent(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in list(os.environ):
        if name.startswith(("CI", "GITHUB_", "BUILD", "CIRCLE_", "GIT_B", "GIT_COMMIT")):
            monkeypatch.delenv(name)
    assert describe(tmp_path)["git"] == {}
    assert describe(tmp_path)["ci"] == {}
    assert describe(tmp_path / "nowhere")["git"] == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe(tmp_path)["git"] == {}


def test_environment_names_software_hardware_and_ci_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_SHA", "0123abcd")
    monkeypatch.setenv("CI_JOB_URL", "https://me:S3CRET@ci.example/1")
    monkeypatch.setenv("HF_TOKEN", "S3CRET")
    described = describe(tmp_path)
    text = json.dumps(described, allow_nan=False)
    assert json.loads(text) == described
    assert "S3CRET" not in text
    assert described["ci"]["GITHUB_SHA"] == "0123abcd"
    assert described["ci"]["CI_JOB_URL"] == "https://me:***@ci.example/1"
    assert {"pytest", "optuna", "pytest-xdist", "sqlalchemy"} <= described["packages"].keys()
    assert described["python"].startswith("3.")
    assert described["hostname"]
    assert described["hardware"]["cores"] >= 1
    assert described["hardware"]["memory_bytes"] > 2**20
    assert described["hardware"]["cpu"]
