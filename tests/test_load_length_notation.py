import jsonschema
import pytest

from pytest_autotune.load.length_notation import LENGTHS_SCHEMA, read_lengths
from pytest_autotune.load.lengths import AtLeast, Empirical, Fixed, LogNormal, Normal, Uniform
from pytest_autotune.problems import Problems

HELP = (
    "write a number of tokens, {uniform: [100, 500]}, {normal: {mean: 480, sd: 240}}, "
    "{lognormal: {median: 480, sigma: 0.8}}, {empirical: [128, 512]}, N(480,240) or U(100,500)"
)


@pytest.mark.parametrize(
    ("written", "lengths"),
    [
        pytest.param(512, Fixed(512), id="a number"),
        pytest.param({"uniform": [100, 500]}, Uniform(100, 500), id="uniform"),
        pytest.param({"normal": {"mean": 480, "sd": 240}}, Normal(480, 240), id="normal"),
        pytest.param(
            {"normal": {"mean": 480.5, "sd": 0, "min": 16, "max": 1024}}, Normal(480.5, 0, 16, 1024), id="bounds"
        ),
        pytest.param({"lognormal": {"median": 480, "sigma": 0.8}}, LogNormal(480, 0.8), id="lognormal"),
        pytest.param(
            {"lognormal": {"mean": 800, "sd": 400, "max": 4096}},
            LogNormal.of_mean(800, 400, high=4096),
            id="lognormal by mean",
        ),
        pytest.param({"empirical": [512, 128, 128]}, Empirical((128, 128, 512)), id="empirical"),
        pytest.param(
            {"empirical": {"values": [128, 512], "weights": [3, 0.5]}},
            Empirical((128, 512), (3, 0.5)),
            id="empirical with weights",
        ),
        pytest.param("D(512)", Fixed(512), id="deterministic text"),
        pytest.param("N(480,240)", AtLeast(1, Normal(479.5, 240, clamped=True)), id="normal text"),
        pytest.param(" U(100, 500) ", AtLeast(1, Uniform(100, 499)), id="uniform text"),
    ],
)
def test_lengths_are_read_and_pass_the_schema(written, lengths):
    assert read_lengths(written) == lengths
    jsonschema.validate(written, LENGTHS_SCHEMA)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        pytest.param(0, "0 is too small; write a whole number of at least 1", id="zero"),
        pytest.param(2.5, "2.5 is not a whole number; write a whole number of at least 1", id="fraction"),
        pytest.param(True, "true is not a whole number; write a whole number of at least 1", id="boolean"),
        pytest.param(
            "512",
            "'512' is text (did you mean 512, without quotes?); write a whole number of at least 1",
            id="number as text",
        ),
        pytest.param(None, f"null is not a length; {HELP}", id="nothing"),
        pytest.param([100, 500], f"[100, 500] is not a length; {HELP}", id="list"),
        pytest.param({}, f"{{}} is not a length; {HELP}", id="empty mapping"),
        pytest.param("about 500", f"'about 500' is not a length; {HELP}", id="prose"),
        pytest.param("E(1024)", f"'E(1024)' is not a length; {HELP}", id="another kind of scenario"),
        pytest.param(
            "N(480,240)/(300,150)",
            "'N(480,240)/(300,150)' is not one length; write D(tokens), N(mean,sd) or U(min,max)",
            id="both sides",
        ),
        pytest.param(
            "D(100,100)",
            "'D(100,100)' is not one length; write D(tokens), N(mean,sd) or U(min,max)",
            id="both lengths",
        ),
        pytest.param("D(0)", "'D(0)': 0 tokens cannot be asked for; write at least 1", id="no tokens"),
        pytest.param(
            {"unifrom": [1, 2]},
            f"{{\"unifrom\": [1, 2]}} is not a length (did you mean 'uniform'?); {HELP}",
            id="typo",
        ),
        pytest.param(
            {"uniform": [1, 2], "normal": {}},
            '{"uniform": [1, 2], "normal": {}} has normal beside uniform; a length is one distribution, so remove one of them',
            id="two forms",
        ),
    ],
)
def test_what_is_no_length_is_refused_with_what_is(written, message):
    with pytest.raises(ValueError) as caught:
        read_lengths(written)
    assert str(caught.value) == message
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written, LENGTHS_SCHEMA)


@pytest.mark.parametrize(
    ("written", "where", "message"),
    [
        pytest.param(
            {"uniform": 5},
            ("uniform",),
            "5 is not a range; write two numbers of tokens: {uniform: [low, high]}",
            id="no range",
        ),
        pytest.param(
            {"uniform": [0, 5]}, ("uniform", 0), "0 is too small; write a whole number of at least 1", id="zero"
        ),
        pytest.param({"uniform": [9, 5]}, ("uniform",), "low 9 is above high 5; write [5, 9]", id="reversed"),
        pytest.param({"normal": 480}, ("normal",), "480 is not a mapping of keys to values", id="no mapping"),
        pytest.param(
            {"normal": {"mean": 480}}, ("normal",), "has no sd; write {mean: ..., sd: ...}", id="without spread"
        ),
        pytest.param(
            {"normal": {"mean": 480, "sd": 2, "mx": 9}},
            ("normal", "mx"),
            "unknown key (did you mean 'max'?)",
            id="typo in a key",
        ),
        pytest.param(
            {"normal": {"mean": "480", "sd": 2}}, ("normal", "mean"), "'480' is not a number", id="text as mean"
        ),
        pytest.param(
            {"normal": {"mean": 0, "sd": 2}},
            ("normal", "mean"),
            "0 is not above 0; write a number of tokens",
            id="no mean",
        ),
        pytest.param(
            {"normal": {"mean": 480, "sd": -2}}, ("normal", "sd"), "-2 is negative; write 0 or more", id="negative"
        ),
        pytest.param(
            {"normal": {"mean": 480, "sd": 2, "min": 500, "max": 400}},
            ("normal", "min"),
            "min 500 is above max 400; exchange them",
            id="bounds reversed",
        ),
        pytest.param(
            {"normal": {"mean": 480, "sd": 2, "max": 400}},
            ("normal", "mean"),
            "480 is above max 400; move one of them",
            id="mean out of bounds",
        ),
        pytest.param(
            {"lognormal": {"median": 480, "sigma": 1, "min": 500}},
            ("lognormal", "median"),
            "480 is below min 500; move one of them",
            id="median out of bounds",
        ),
        pytest.param(
            {"lognormal": {"median": 480, "sd": 100}},
            ("lognormal", "sd"),
            "unknown key; allowed: median, sigma, min, max",
            id="lognormal mixed",
        ),
        pytest.param(
            {"empirical": []}, ("empirical",), "[] is not a list of lengths; write e.g. [128, 512]", id="no values"
        ),
        pytest.param(
            {"empirical": [128, "x"]},
            ("empirical", 1),
            "'x' is not a whole number; write a whole number of at least 1",
            id="no length",
        ),
        pytest.param(
            {"empirical": {"values": [1, 2], "weights": [1]}},
            ("empirical", "weights"),
            "1 weights for 2 values; give one for each",
            id="weights missing",
        ),
        pytest.param(
            {"empirical": {"values": [1, 2], "weights": [0, 0]}},
            ("empirical", "weights"),
            "all weights are 0, which leaves no length; give one a weight above 0",
            id="weights of zero",
        ),
        pytest.param(
            {"empirical": {"values": [1, 2], "weights": [1, -1]}},
            ("empirical", "weights", 1),
            "-1 is negative; write 0 or more",
            id="negative weight",
        ),
        pytest.param(
            {"empirical": {"values": [1, 2]}},
            ("empirical",),
            "needs both values and weights; write {values: [128, 512], weights: [3, 1]}, or a list",
            id="no weights",
        ),
    ],
)
def test_problem_inside_a_distribution_is_told_with_its_place(written, where, message):
    with pytest.raises(Problems) as caught:
        read_lengths(written)
    (problem,) = caught.value.found
    assert (problem.where, problem.text) == (where, message)


def test_all_problems_of_a_distribution_are_told_at_once():
    with pytest.raises(Problems) as caught:
        read_lengths({"normal": {"mean": 0, "sd": -1}})
    assert [problem.where for problem in caught.value.found] == [("normal", "mean"), ("normal", "sd")]
