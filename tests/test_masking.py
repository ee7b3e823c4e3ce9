import pytest

from pytest_autotune.masking import mask, mask_arguments, mask_environment, secret_setting, secret_variable


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True),
        ("OPENAI_API_KEY", True),
        ("aws_secret_access_key", True),
        ("DB_PASSWORD", True),
        ("CUDA_VISIBLE_DEVICES", False),
        ("VLLM_USE_V1", False),
    ],
)
def test_environment_variable_is_a_secret_by_its_name(name, secret):
    assert secret_variable(name) is secret


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("api-key", True),
        ("--hf_token", True),
        ("client.secret", True),
        ("max-num-batched-tokens", False),
        ("tokenizer", False),
        ("kv-cache-dtype", False),
        ("monkey", False),
    ],
)
def test_setting_is_a_secret_by_its_last_word(name, secret):
    assert secret_setting(name) is secret


def test_secrets_are_hidden_and_the_rest_is_kept():
    assert mask_environment({"HF_TOKEN": "x", "MODE": "y"}) == {"HF_TOKEN": "***", "MODE": "y"}
    assert mask({"a": {"api-key": "x", "b": ["hf_" + "a" * 20, 1]}}) == {"a": {"api-key": "***", "b": ["***", 1]}}
    assert mask({"api-key": None}) == {"api-key": None}


@pytest.mark.parametrize(
    ("argv", "masked"),
    [
        pytest.param(["--api-key", "x", "y"], ("--api-key", "***", "y"), id="next argument"),
        pytest.param(["--api-key=x"], ("--api-key=***",), id="same argument"),
        pytest.param(["--api-key", "--fast"], ("--api-key", "--fast"), id="no value"),
        pytest.param(["--title", "sk-" + "a" * 20], ("--title", "***"), id="by its form"),
        pytest.param(["--max-num-batched-tokens", "9"], ("--max-num-batched-tokens", "9"), id="no secret"),
    ],
)
def test_command_line_hides_the_values_of_secret_flags(argv, masked):
    assert mask_arguments(argv) == masked
