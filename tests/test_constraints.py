import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.constraints import Constraint

VALUES = {"max-num-seqs": 64, "a": 1, "b": 2, "a-b": 9, "mode": "fast", "on": True, "sizes": [1, 2], "none": None}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        pytest.param("a < b", True, id="comparison"),
        pytest.param("1 <= a < b <= 2", True, id="chain"),
        pytest.param("1 <= b < a", False, id="chain that breaks"),
        pytest.param("a + b * 2 == 5", True, id="product before sum"),
        pytest.param("(a + b) * 2 == 6", True, id="group"),
        pytest.param("7 - 2 - 1 == 4", True, id="left-associative"),
        pytest.param("7 // 2 == 3 and 7 % 2 == 1 and 7 / 2 == 3.5", True, id="divisions"),
        pytest.param("-a < 0 and - -a > 0", True, id="unary minus"),
        pytest.param("max-num-seqs == 64", True, id="hyphens in a name"),
        pytest.param("a-b == 9", True, id="hyphenated name wins over subtraction"),
        pytest.param("a - b == -1", True, id="spaces make a subtraction"),
        pytest.param("a > 1 or b > 1", True, id="or"),
        pytest.param("a > 1 and b > 1", False, id="and"),
        pytest.param("a > 1 or b > 1 and a > 1", False, id="and binds stronger than or"),
        pytest.param("not a > 1", True, id="not binds weaker than comparison"),
        pytest.param("not not on", True, id="not not"),
        pytest.param("on => a == 1", True, id="implication"),
        pytest.param("on => a == 2", False, id="implication that fails"),
        pytest.param("not on => a == 2", True, id="implication from a falsehood"),
        pytest.param("on => not on => a == 5", True, id="implication is right-associative"),
        pytest.param("b in [1, 2]", True, id="in"),
        pytest.param("b not in [1, 2]", False, id="not in"),
        pytest.param("b in sizes", True, id="in the value of a parameter"),
        pytest.param("mode == 'fast'", True, id="single quotes"),
        pytest.param('mode != "slow"', True, id="double quotes"),
        pytest.param("mode in ['slow', 'fast']", True, id="text in a list"),
        pytest.param("none == null", True, id="null"),
        pytest.param("on == true", True, id="true"),
        pytest.param("on == 1", False, id="true is not one"),
        pytest.param("a == 1.0", True, id="one is one point zero"),
        pytest.param("min(a, b) == 1 and max(a, b, 7) == 7 and abs(-b) == 2", True, id="functions"),
        pytest.param("a > 1e-3", True, id="exponent"),
        pytest.param("mode == 'fast' or mode > 3", True, id="the rest of a decided or is not evaluated"),
        pytest.param("absent > 1000", True, id="absent name"),
        pytest.param("a > 5 and absent > 1", True, id="absent name anywhere"),
    ],
)
def test_condition_is_evaluated(text, holds):
    assert Constraint(text).holds(VALUES) is holds


@pytest.mark.parametrize(
    ("text", "known", "names"),
    [
        pytest.param("a-b > 0", (), {"a-b"}, id="nothing known: one name"),
        pytest.param("a-b > 0", ("a", "b"), {"a", "b"}, id="both parts known: subtraction"),
        pytest.param("a-b > 0", ("a", "b", "a-b"), {"a-b"}, id="whole known: one name"),
        pytest.param("a-b-c > 0", ("a-b", "c", "a"), {"a-b", "c"}, id="longest known part first"),
        pytest.param("a-b-c > 0", ("a-b", "a", "b-c"), {"a", "b-c"}, id="the cut that works"),
        pytest.param("a-1 > 0", ("a",), {"a"}, id="number after a known name"),
        pytest.param("tp-size > 0", ("tp",), {"tp-size"}, id="unknown rest: one name"),
        pytest.param("max-num-seqs > max", (), {"max-num-seqs", "max"}, id="function name without a call is a name"),
        pytest.param("compilation-config.level == 3", (), {"compilation-config.level"}, id="dots"),
    ],
)
def test_hyphenated_run_is_cut_only_into_known_names(text, known, names):
    assert Constraint(text, frozenset(known)).names == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[1 2] == a", "',' is missing before 2", id="no comma"),
        pytest.param("", "an empty constraint says nothing; write a condition, e.g. 'a >= b'", id="empty"),
        pytest.param("a >", "a value is missing at the end", id="cut short"),
        pytest.param("> a", "a value is missing before '>'", id="no left side"),
        pytest.param("a and and b", "a value is missing before 'and'", id="two operators"),
        pytest.param("(a > 0", "')' is missing at the end", id="open group"),
        pytest.param("a > 0)", "a condition ends before ')'", id="group closed twice"),
        pytest.param("[1, 2", "',' is missing at the end", id="open list"),
        pytest.param("a b", "a condition ends before 'b'", id="no operator"),
        pytest.param("a = 1", "cannot read '=' (did you mean '=='?)", id="assignment"),
        pytest.param("a && b", "cannot read '&&' (did you mean 'and'?)", id="and of another language"),
        pytest.param("!a", "cannot read '!' (did you mean 'not'?)", id="not of another language"),
        pytest.param("a > 5x", "cannot read '5x'", id="number with letters"),
        pytest.param("a > 'x", 'cannot read "\'x"', id="open quote"),
        pytest.param("a.__class__ == 1 if b else c", "a condition ends before 'if'", id="python"),
        pytest.param("().__class__", "cannot read '.__class__'", id="attribute of a tuple"),
        pytest.param("sqrt(a) > 1", "unknown function 'sqrt'; allowed: min, max, abs", id="unknown function"),
        pytest.param(
            "mix(a, b) > 1", "unknown function 'mix' (did you mean 'min'?); allowed: min, max, abs", id="typo"
        ),
        pytest.param("max(a) > 1", "max() takes two or more values, not 1", id="too few values"),
        pytest.param("abs(a, b) > 1", "abs() takes one value, not 2", id="too many values"),
        pytest.param("a > 1e999", "'1e999' is not a finite number", id="infinite number"),
        pytest.param(
            "(" * 60 + "a" + ")" * 60, "nested deeper than 40 levels; split it into several constraints", id="deep"
        ),
        pytest.param("a" * 3000, "longer than 2000 characters; split it into several constraints", id="long"),
    ],
)
def test_text_that_is_no_condition_is_refused(text, message):
    with pytest.raises(ValueError) as caught:
        Constraint(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("mode < 3", "constraint 'mode < 3': 'fast' is not a number", id="text is not ordered"),
        pytest.param("on + 1 > 1", "constraint 'on + 1 > 1': true is not a number", id="true is not counted"),
        pytest.param("a and b > 1", "constraint 'a and b > 1': 1 is not true or false", id="a number is no truth"),
        pytest.param("a + b", "constraint 'a + b': 3 is not true or false", id="no condition"),
        pytest.param("a / 0 > 1", "constraint 'a / 0 > 1': division by zero", id="division by zero"),
        pytest.param("a in mode", "constraint 'a in mode': 'in' needs a list on its right, not 'fast'", id="in text"),
        pytest.param("none > 1", "constraint 'none > 1': null is not a number", id="null"),
    ],
)
def test_operands_of_the_wrong_type_are_an_error_with_the_text(text, message):
    with pytest.raises(ValueError) as caught:
        Constraint(text).holds(VALUES)
    assert str(caught.value) == message


def test_constraint_survives_pickling():
    constraint = Constraint("a-b > 0", frozenset(("a", "b")))
    copy = pickle.loads(pickle.dumps(constraint))
    assert copy == constraint
    assert copy.holds({"a": 2, "b": 1})


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_constraint_is_written_alike_in_every_process(seed):
    code = "from pytest_autotune.constraints import Constraint; print(Constraint('a + b > c', frozenset('abcd')))"
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    written = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    names = "frozenset({'a', 'b', 'c'})"
    known = "frozenset({'a', 'b', 'c', 'd'})"
    assert written.stdout.strip() == f"Constraint(text='a + b > c', known={known}, names={names})"
    assert repr(Constraint("1 < 2")) == "Constraint(text='1 < 2', known=frozenset(), names=frozenset())"


def test_run_of_many_hyphens_is_cut_quickly():
    text = "-".join(["a"] * 400 + ["b"])
    assert Constraint(text, frozenset(("a", "a-a", "a-a-a"))).names == {text}


def expressions():
    """Pairs of a condition and what Python makes of it, over the names x and y."""
    numbers = st.one_of(st.sampled_from([("x", "x"), ("y", "y")]), st.integers(0, 9).map(lambda n: (str(n), str(n))))
    sums = st.recursive(
        numbers,
        lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(
            lambda t: (f"({t[0][0]} {t[1]} {t[2][0]})", f"({t[0][1]} {t[1]} {t[2][1]})")
        ),
        max_leaves=6,
    )
    conditions = st.tuples(sums, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), sums).map(
        lambda t: (f"{t[0][0]} {t[1]} {t[2][0]}", f"{t[0][1]} {t[1]} {t[2][1]}")
    )
    return st.recursive(
        conditions,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
                lambda t: (f"({t[0][0]}) {t[1]} ({t[2][0]})", f"({t[0][1]}) {t[1]} ({t[2][1]})")
            ),
            inner.map(lambda t: (f"not ({t[0]})", f"not ({t[1]})")),
            st.tuples(inner, inner).map(
                lambda t: (f"({t[0][0]}) => ({t[1][0]})", f"((not ({t[0][1]})) or ({t[1][1]}))")
            ),
        ),
        max_leaves=4,
    )


@settings(deadline=None)  # the machine may be busy
@given(expressions(), st.integers(-5, 5), st.integers(-5, 5))
def test_conditions_agree_with_python(expression, x, y):
    ours, python = expression
    assert Constraint(ours).holds({"x": x, "y": y}) is eval(python, {"x": x, "y": y})


@settings(deadline=None)  # the machine may be busy
@given(st.one_of(st.text(max_size=60), st.text(alphabet="ab-+*/%<>=!()[],.'\" 019notandri", max_size=60)))
def test_no_text_raises_anything_but_value_error(text):
    message = ""
    try:
        Constraint(text, frozenset(("a", "b", "a-b"))).holds({"a": 1, "b": 0, "a-b": "text"})
    except ValueError as error:
        message = str(error)
    assert "\n" not in message
