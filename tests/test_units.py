import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune import units

DURATION_HELP = "write a number with a unit, e.g. 500ms, 30s, 2m"
PERCENTAGE_HELP = "write a percentage, e.g. 1%, or a share of one, e.g. 0.01"


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        pytest.param("250us", 0.00025, id="microseconds"),
        pytest.param("500ms", 0.5, id="milliseconds"),
        pytest.param("30s", 30.0, id="seconds"),
        pytest.param("2m", 120.0, id="minutes"),
        pytest.param("1h", 3600.0, id="hours"),
        pytest.param("1.5 s", 1.5, id="a fraction and a space"),
        pytest.param(" 70ms ", 0.07, id="spaces around"),
        pytest.param(0, 0.0, id="zero needs no unit"),
        pytest.param("0", 0.0, id="zero as text needs none either"),
    ],
)
def test_duration_is_read_in_seconds(written, seconds):
    assert units.duration(written) == seconds


@pytest.mark.parametrize(
    ("written", "message"),
    [
        pytest.param("50 parsecs", f"'50 parsecs' is not a duration; {DURATION_HELP}", id="no unit of time"),
        pytest.param("50 sec", f"'50 sec' is not a duration (did you mean '50s'?); {DURATION_HELP}", id="long unit"),
        pytest.param("2min", f"'2min' is not a duration (did you mean '2m'?); {DURATION_HELP}", id="min"),
        pytest.param(
            "5 milisecond", f"'5 milisecond' is not a duration (did you mean '5ms'?); {DURATION_HELP}", id="typo"
        ),
        pytest.param("500MS", f"'500MS' is not a duration (did you mean '500ms'?); {DURATION_HELP}", id="capitals"),
        pytest.param("1,5s", f"'1,5s' is not a duration (did you mean '1.5s'?); {DURATION_HELP}", id="decimal comma"),
        pytest.param(".5s", f"'.5s' is not a duration (did you mean '0.5s'?); {DURATION_HELP}", id="no leading zero"),
        pytest.param("1m30s", f"'1m30s' is not a duration; {DURATION_HELP}", id="two units"),
        pytest.param(30, "30 has no unit; write '30s' or '30ms'", id="bare number"),
        pytest.param("30", "'30' has no unit; write '30s' or '30ms'", id="bare number as text"),
        pytest.param(-5, f"-5 is negative; {DURATION_HELP}", id="negative number"),
        pytest.param("-5s", f"'-5s' is negative; {DURATION_HELP}", id="negative text"),
        pytest.param(True, f"true is not a duration; {DURATION_HELP}", id="boolean"),
        pytest.param(None, f"null is not a duration; {DURATION_HELP}", id="null"),
        pytest.param(["5s"], f'["5s"] is not a duration; {DURATION_HELP}', id="list"),
        pytest.param("9" * 400 + "s", f"'{'9' * 60}'... is not a finite number", id="beyond floating point"),
    ],
)
def test_wrong_duration_is_refused_with_the_nearest_spelling(written, message):
    with pytest.raises(ValueError) as caught:
        units.duration(written)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("written", "share"),
    [
        pytest.param("1%", 0.01, id="percent"),
        pytest.param("0.5 %", 0.005, id="fraction of a percent"),
        pytest.param("100%", 1.0, id="all"),
        pytest.param(0.01, 0.01, id="share"),
        pytest.param(0, 0.0, id="none"),
    ],
)
def test_percentage_is_read_as_a_share(written, share):
    assert units.percentage(written) == share


def test_ratio_may_exceed_one_where_that_is_allowed():
    assert units.percentage("200%", most=None) == units.percentage(2, most=None) == 2.0


@pytest.mark.parametrize(
    ("written", "message"),
    [
        pytest.param(1, f"1 is not a share below 1 (did you mean '1%'?); {PERCENTAGE_HELP}", id="ambiguous one"),
        pytest.param("1", f"'1' is not a percentage (did you mean '1%'?); {PERCENTAGE_HELP}", id="text without a sign"),
        pytest.param(
            "1 percent", f"'1 percent' is not a percentage (did you mean '1%'?); {PERCENTAGE_HELP}", id="word"
        ),
        pytest.param("150%", f"'150%' is more than 100%; {PERCENTAGE_HELP}", id="more than all"),
        pytest.param(-0.1, f"-0.1 is negative; {PERCENTAGE_HELP}", id="negative"),
        pytest.param("-1%", f"'-1%' is negative; {PERCENTAGE_HELP}", id="negative text"),
        pytest.param("few", f"'few' is not a percentage; {PERCENTAGE_HELP}", id="text"),
        pytest.param(False, f"false is not a percentage; {PERCENTAGE_HELP}", id="boolean"),
    ],
)
def test_wrong_percentage_is_refused(written, message):
    with pytest.raises(ValueError) as caught:
        units.percentage(written)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("written", "size"),
    [
        pytest.param("16GiB", 16 * 1024**3, id="binary"),
        pytest.param("512MB", 512_000_000, id="decimal"),
        pytest.param("1.5 KiB", 1536, id="fraction"),
        pytest.param("10B", 10, id="bytes"),
        pytest.param(0, 0, id="zero needs no unit"),
    ],
)
def test_size_is_read_in_bytes(written, size):
    assert units.size(written) == size


@pytest.mark.parametrize(
    ("written", "message"),
    [
        pytest.param(
            "16G",
            "'16G' is not a size (did you mean '16GB'?); write a number with a unit, e.g. 512MB, 16GiB",
            id="letter",
        ),
        pytest.param(
            "16gib",
            "'16gib' is not a size (did you mean '16GiB'?); write a number with a unit, e.g. 512MB, 16GiB",
            id="small",
        ),
        pytest.param("big", "'big' is not a size; write a number with a unit, e.g. 512MB, 16GiB", id="text"),
        pytest.param(12, "12 has no unit; write '12MB' or '12GiB'", id="bare"),
    ],
)
def test_wrong_size_is_refused(written, message):
    with pytest.raises(ValueError) as caught:
        units.size(written)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("written", "message"),
    [
        pytest.param("4k", "'4k' is ambiguous; write 4000 or 4096", id="suffix"),
        pytest.param(
            "512", "'512' is text (did you mean 512, without quotes?); write a whole number of at least 1", id="text"
        ),
        pytest.param(
            512.0, "512.0 is not a whole number (did you mean 512?); write a whole number of at least 1", id="point"
        ),
        pytest.param(1.5, "1.5 is not a whole number; write a whole number of at least 1", id="fraction"),
        pytest.param(0, "0 is too small; write a whole number of at least 1", id="too small"),
        pytest.param(True, "true is not a whole number; write a whole number of at least 1", id="boolean"),
        pytest.param("many", "'many' is not a whole number; write a whole number of at least 1", id="word"),
    ],
)
def test_wrong_count_is_refused(written, message):
    with pytest.raises(ValueError) as caught:
        units.count(written, least=1)
    assert str(caught.value) == message


def test_count_is_read_as_it_is():
    assert units.count(512) == 512


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 10**6), st.sampled_from(["us", "ms", "s", "m", "h"]))
def test_duration_is_the_number_times_its_unit(number, unit):
    factor = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}[unit]
    assert units.duration(f"{number}{unit}") == pytest.approx(number * factor)


@settings(deadline=None)  # the machine may be busy
@given(st.one_of(st.text(), st.floats(), st.integers(), st.none(), st.booleans(), st.lists(st.text())))
def test_no_value_gives_anything_but_a_finite_number_or_a_value_error(value):
    for read in (units.duration, units.percentage, units.size, units.count, units.number):
        try:
            result = read(value)
        except ValueError as error:
            message = str(error)
        else:
            message = ""
            assert 0 <= result < float("inf") or (read is units.number and abs(result) < float("inf"))
        assert "\n" not in message


def test_number_beyond_floating_point_is_refused():
    with pytest.raises(ValueError, match="is not a finite number"):
        units.number(10**400)
