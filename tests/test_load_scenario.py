import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.load.lengths import AtLeast, Fixed, Normal, Uniform, longest
from pytest_autotune.load.scenario import SCENARIO, Scenario, read_scenario

TEXT = ("completions", "chat")
HELP = "write D(100,100), N(480,240)/(300,150), U(50,100)/(200,250), E(1024), R(1024,100) or dataset"

# The defaults and the help texts of genai-bench 0.0.5 (genai_bench/cli/validation.py, genai_bench/cli/option_groups.py,
# docstrings of genai_bench/scenarios/text.py).
EXAMPLES = {
    "D(100,100)": TEXT,
    "D(100,200)": TEXT,
    "D(100,1000)": TEXT,
    "D(2000,200)": TEXT,
    "D(7800,200)": TEXT,
    "D(16000,100)": TEXT,
    "N(480,240)/(300,150)": TEXT,
    "N(300,150)/(480,240)": TEXT,
    "N(100,20)/(200,30)": TEXT,
    "U(50,100)/(200,250)": TEXT,
    "U(100,200)/(200,300)": TEXT,
    "U(100,200)": TEXT,
    "U(1000,100)": TEXT,
    "E(64)": ("embeddings",),
    "E(1024)": ("embeddings",),
    "R(64,100)": ("rerank",),
    "R(1024,100)": ("rerank",),
    "R(4096,100)": ("rerank",),
    "dataset": (*TEXT, "embeddings", "rerank"),
}


@pytest.mark.parametrize(("text", "apis"), EXAMPLES.items(), ids=list(EXAMPLES))
def test_every_example_of_genai_bench_is_read_and_keeps_its_name(text, apis):
    scenario = read_scenario(text)
    assert scenario.text == text
    assert scenario.apis == apis


@pytest.mark.parametrize(
    ("text", "scenario"),
    [
        pytest.param("D(100,1000)", Scenario("D(100,1000)", TEXT, Fixed(100), Fixed(1000)), id="deterministic"),
        pytest.param(
            "N(480,240)/(300,150)",
            Scenario(
                "N(480,240)/(300,150)",
                TEXT,
                AtLeast(1, Normal(479.5, 240, clamped=True)),
                AtLeast(2, Normal(299.5, 150, clamped=True)),
            ),
            id="normal",
        ),
        pytest.param("N(100,0)/(1,0)", Scenario("N(100,0)/(1,0)", TEXT, Fixed(100), Fixed(2)), id="normal, no spread"),
        pytest.param(
            "U(50,100)/(200,250)",
            Scenario("U(50,100)/(200,250)", TEXT, AtLeast(1, Uniform(50, 99)), AtLeast(2, Uniform(200, 249))),
            id="uniform",
        ),
        pytest.param(
            "U(100,200)",
            Scenario("U(100,200)", TEXT, AtLeast(1, Uniform(1, 99)), AtLeast(2, Uniform(1, 199))),
            id="uniform from 1",
        ),
        pytest.param(
            "U(0,100)/(0,2)",
            Scenario("U(0,100)/(0,2)", TEXT, AtLeast(1, Uniform(1, 99)), Fixed(2)),
            id="a minimum of 0 is 1",
        ),
        pytest.param(
            "U(7,7)/(9,9)",
            Scenario("U(7,7)/(9,9)", TEXT, AtLeast(1, Uniform(7, 7)), AtLeast(2, Uniform(9, 9))),
            id="one length",
        ),
        pytest.param("U(1,1)", Scenario("U(1,1)", TEXT, Fixed(1), Fixed(2)), id="shortest"),
        pytest.param("E(1024)", Scenario("E(1024)", ("embeddings",), Fixed(1024)), id="embeddings"),
        pytest.param("R(1024,100)", Scenario("R(1024,100)", ("rerank",), Fixed(1024), query=Fixed(100)), id="rerank"),
        pytest.param("dataset", Scenario("dataset", (*TEXT, "embeddings", "rerank")), id="dataset"),
        pytest.param(
            " R(1024, 128) ",
            Scenario("R(1024,128)", ("rerank",), Fixed(1024), query=Fixed(128)),
            id="blanks, as in genai-bench's help",
        ),
    ],
)
def test_scenario_is_read_as_lengths(text, scenario):
    assert read_scenario(text) == scenario
    assert re.search(SCENARIO, text)


def drawn_by_genai_bench(text, count=40_000):
    """What `sample()` of genai_bench/scenarios/text.py draws, with its numpy calls, as (prompts, outputs)."""
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    random = np.random.default_rng(1)
    if text.startswith("U") and len(numbers) == 2:
        numbers = [1, numbers[0], 1, numbers[1]]
    draw = random.normal if text.startswith("N") else random.uniform
    prompt, output = (draw(*numbers[side : side + 2], size=count).astype(int) for side in (0, 2))
    return np.maximum(1, prompt), np.maximum(2, output)


@pytest.mark.parametrize(
    "text", ["N(480,240)/(300,150)", "N(20,20)/(5,3)", "U(50,100)/(200,250)", "U(100,200)", "U(3,4)"]
)
def test_lengths_are_distributed_as_genai_bench_draws_them(text):
    scenario = read_scenario(text)
    for lengths, drawn in zip((scenario.prompt, scenario.output), drawn_by_genai_bench(text), strict=True):
        ours = np.array([lengths.at((point + 0.5) / 40_000) for point in range(40_000)])
        values = np.union1d(ours, drawn)
        shares = [np.searchsorted(np.sort(side), values, side="right") / side.size for side in (ours, drawn)]
        assert np.abs(shares[0] - shares[1]).max() < 1.63 / 200  # Kolmogorov-Smirnov at 1 %, 40,000 drawn
        assert ours.min() == drawn.min()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", f"'' is not a traffic scenario; {HELP}", id="empty"),
        pytest.param("X(1,2)", f"'X(1,2)' is not a traffic scenario; {HELP}", id="unknown kind"),
        pytest.param("d(100,100)", f"'d(100,100)' is not a traffic scenario; {HELP}", id="small letter"),
        pytest.param("D100,100", f"'D100,100' is not a traffic scenario; {HELP}", id="no brackets"),
        pytest.param("D(1.5,2)", f"'D(1.5,2)' is not a traffic scenario; {HELP}", id="fraction"),
        pytest.param("D(1 0,2)", f"'D(1 0,2)' is not a traffic scenario; {HELP}", id="a blank inside a number"),
        pytest.param("D(-1,2)", f"'D(-1,2)' is not a traffic scenario; {HELP}", id="negative"),
        pytest.param(
            "D(100)", "'D(100)' is not a scenario of kind D; write D(prompt,output), e.g. D(100,100)", id="one of two"
        ),
        pytest.param(
            "N(480,240)",
            "'N(480,240)' is not a scenario of kind N; write N(mean,sd)/(mean,sd), e.g. N(480,240)/(300,150)",
            id="one side of two",
        ),
        pytest.param(
            "E(1,2)", "'E(1,2)' is not a scenario of kind E; write E(document), e.g. E(1024)", id="one too many"
        ),
        pytest.param("D(0,100)", "'D(0,100)': 0 tokens cannot be asked for; write at least 1", id="no prompt"),
        pytest.param(
            "U(200,100)/(1,2)",
            "'U(200,100)/(1,2)': no length lies between 200 and 100; write U(min,max) with min <= max, in tokens",
            id="reversed",
        ),
        pytest.param(
            "I(512,512)",
            "'I(512,512)' asks for images, and only text is sent here; remove it, or run it with load.generator: genai-bench",
            id="image",
        ),
        pytest.param(
            "I(2048,2048,2)",
            "'I(2048,2048,2)' asks for images, and only text is sent here; remove it, or run it with load.generator: genai-bench",
            id="images",
        ),
        pytest.param(
            "A(500)",
            "'A(500)' asks for speech, and only text is sent here; remove it, or run it with load.generator: genai-bench",
            id="speech",
        ),
    ],
)
def test_what_is_no_text_scenario_is_refused_with_what_is(text, message):
    with pytest.raises(ValueError) as caught:
        read_scenario(text)
    assert str(caught.value) == message


@given(text=st.builds("{}({},{})/({},{})".format, st.sampled_from("NU"), *(st.integers(0, 300) for _ in range(4))))
def test_lengths_of_any_scenario_reach_from_the_least_to_the_greatest(text):
    try:
        scenario = read_scenario(text)
    except ValueError as error:
        assert "no length lies between" in str(error)  # noqa: PT017 - refused or well-formed, nothing else
        return
    assert scenario.prompt.at(1e-9) >= 1
    assert scenario.output.at(1e-9) >= 2
    assert longest(scenario.prompt) < 300 + 9 * 300


@given(st.text("DNUERIAdataset(),/0123456789 \n", max_size=20))
def test_any_other_text_is_refused_in_one_line(text):
    try:
        scenario = read_scenario(text)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017 - refused or well-formed, nothing else
        return
    assert read_scenario(scenario.text) == scenario
