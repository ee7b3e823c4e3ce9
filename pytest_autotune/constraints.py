"""Conditions between parameters: parsed once into closures, interpreted without `eval`.

Grammar, weakest binding first::

    a => b            implication, right-associative
    or, and, not
    == != < <= > >=   may be chained: 1 <= a < b; also `in [...]` and `not in [...]`
    + -  then  * / // %  then  unary minus
    numbers, 'text', true, false, null, [lists], (groups), min(), max(), abs(), names

Engine flags have hyphens, so a run such as ``max-num-seqs`` is one name. It is a subtraction only
when the whole run is not a known name while each part is one, or is a number. Arithmetic and
ordering want numbers, logic wants true or false; anything else is a `ValueError`, never a guess.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_autotune.spelling import nearest, show

Values = Mapping[str, Any]
Evaluate = Callable[[Values], Any]

_DEEPEST = 40  # nested groups; a condition beyond that is a mistake, and would exhaust the stack
_LONGEST = 2000  # characters
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<text>'[^'\\]*'|"[^"\\]*")
    | (?P<run>[A-Za-z_](?:[\w.]*\w)?(?:-\w(?:[\w.]*\w)?)*)
    | (?P<sign>=>|==|!=|<=|>=|//|[-+*/%<>()\[\],])
    )""",
    re.VERBOSE | re.ASCII,
)
_LITERALS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_WORDS = ("and", "or", "not", "in")
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {"min": min, "max": max, "abs": abs}
_FOREIGN = {"&&": "and", "||": "or", "=": "==", "!": "not", "->": "=>", "&": "and", "|": "or"}
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ADD: Mapping[str, Callable[[Any, Any], Any]] = {"+": operator.add, "-": operator.sub}
_MULTIPLY: Mapping[str, Callable[[Any, Any], Any]] = {
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}


@dataclass(frozen=True, slots=True)
class Constraint:
    """A condition over parameters, e.g. ``max-num-batched-tokens >= max-num-seqs``; never `eval`-ed.

    `known` are the names that may be subtracted from each other without spaces. Making one raises
    `ValueError` when the text is not a condition.
    """

    text: str
    known: frozenset[str] = frozenset()
    names: frozenset[str] = field(init=False, compare=False)
    _evaluate: Evaluate = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        parser = _Parser(self.text, self.known)
        object.__setattr__(self, "_evaluate", parser.parse())
        object.__setattr__(self, "names", frozenset(parser.names))

    def __repr__(self) -> str:
        # Sorted: a set's own order differs between processes, and the identity of a study is made of this.
        return f"Constraint(text={self.text!r}, known={_written(self.known)}, names={_written(self.names)})"

    def __reduce__(self) -> tuple[type[Constraint], tuple[str, frozenset[str]]]:
        return Constraint, (self.text, self.known)  # closures cannot be pickled

    def holds(self, values: Values) -> bool:
        """Evaluate over `values`; a constraint naming something that `values` lacks holds.

        Raises `ValueError` with the text of the constraint for operands of the wrong type.
        """
        if not self.names <= values.keys():
            return True
        try:
            return _truth(self._evaluate(values))
        except (ValueError, ArithmeticError) as error:
            raise ValueError(f"constraint {self.text!r}: {error}") from error


def _written(names: frozenset[str]) -> str:
    return f"frozenset({{{', '.join(map(repr, sorted(names)))}}})" if names else "frozenset()"


class _Parser:
    """Recursive descent over the tokens of one constraint."""

    def __init__(self, text: str, known: frozenset[str]) -> None:
        self.text = text
        self.names: set[str] = set()
        self._depth = 0
        self._position = 0
        self._tokens = list(_tokens(text, known))

    def parse(self) -> Evaluate:
        if not self._tokens:
            raise ValueError("an empty constraint says nothing; write a condition, e.g. 'a >= b'")
        whole = self._implication()
        if self._position < len(self._tokens):
            raise self._unexpected("a condition ends before")
        return whole

    def _implication(self) -> Evaluate:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError(f"nested deeper than {_DEEPEST} levels; split it into several constraints")
        left = self._or()
        if self._take("=>"):
            right = self._implication()
            self._depth -= 1
            return lambda values: not _truth(left(values)) or _truth(right(values))
        self._depth -= 1
        return left

    def _or(self) -> Evaluate:
        parts = [self._and()]
        while self._take("or"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else lambda values: any(_truth(part(values)) for part in parts)

    def _and(self) -> Evaluate:
        parts = [self._not()]
        while self._take("and"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else lambda values: all(_truth(part(values)) for part in parts)

    def _not(self) -> Evaluate:
        negations = 0
        while self._take("not"):
            negations += 1
        inner = self._comparison()
        if not negations:
            return inner
        odd = negations % 2 == 1
        return lambda values: _truth(inner(values)) is not odd

    def _comparison(self) -> Evaluate:
        first = self._sum()
        links: list[tuple[str, Evaluate]] = []
        while sign := self._comparison_sign():
            links.append((sign, self._sum()))
        if not links:
            return first

        def chain(values: Values) -> bool:
            left = first(values)
            for sign, operand in links:
                right = operand(values)
                if not _compare(sign, left, right):
                    return False
                left = right
            return True

        return chain

    def _comparison_sign(self) -> str | None:
        for sign in ("==", "!=", *_COMPARE, "in"):
            if self._take(sign):
                return sign
        if self._peek() == "not" and self._peek(1) == "in":
            self._position += 2
            return "not in"
        return None

    def _sum(self) -> Evaluate:
        return self._left_associative(_ADD, self._product)

    def _product(self) -> Evaluate:
        return self._left_associative(_MULTIPLY, self._unary)

    def _left_associative(
        self, signs: Mapping[str, Callable[[Any, Any], Any]], operand: Callable[[], Evaluate]
    ) -> Evaluate:
        first = operand()
        rest: list[tuple[Callable[[Any, Any], Any], Evaluate]] = []
        while (sign := self._peek()) in signs:
            self._position += 1
            rest.append((signs[sign], operand()))
        if not rest:
            return first

        def fold(values: Values) -> Any:
            result = _number(first(values))
            for apply, right in rest:
                result = apply(result, _number(right(values)))
            return result

        return fold

    def _unary(self) -> Evaluate:
        negative = False
        while self._peek() in ("-", "+"):
            negative ^= self._take("-") or not self._take("+")
        inner = self._primary()
        return (lambda values: -_number(inner(values))) if negative else inner

    def _primary(self) -> Evaluate:
        if self._take("("):
            inner = self._implication()
            self._expect(")")
            return inner
        if self._take("["):
            items = self._items("]")
            return lambda values: [item(values) for item in items]
        if self._position == len(self._tokens):
            raise ValueError("a value is missing at the end")
        kind, token = self._tokens[self._position]
        if kind == "sign" or (kind == "name" and token in _WORDS):
            raise self._unexpected("a value is missing before")
        self._position += 1
        if kind in ("number", "text"):
            return lambda _values: token
        if token in _LITERALS:
            literal = _LITERALS[token]
            return lambda _values: literal
        if self._take("("):
            return self._call(token)
        self.names.add(token)
        return lambda values: values[token]

    def _call(self, name: str) -> Evaluate:
        if name not in _FUNCTIONS:
            raise ValueError(f"unknown function {name!r}{nearest(name, _FUNCTIONS)}; allowed: {', '.join(_FUNCTIONS)}")
        function = _FUNCTIONS[name]
        items = self._items(")")
        if (len(items) != 1) if name == "abs" else (len(items) < 2):
            raise ValueError(
                f"{name}() takes {'one value' if name == 'abs' else 'two or more values'}, not {len(items)}"
            )
        return lambda values: function(*[_number(item(values)) for item in items])

    def _items(self, end: str) -> list[Evaluate]:
        items: list[Evaluate] = []
        while not self._take(end):
            if items:
                self._expect(",")
            items.append(self._implication())
        return items

    def _peek(self, ahead: int = 0) -> str:
        position = self._position + ahead
        if position >= len(self._tokens):
            return ""
        kind, token = self._tokens[position]
        return token if kind in ("sign", "name") else ""

    def _take(self, token: str) -> bool:
        if self._peek() != token:
            return False
        self._position += 1
        return True

    def _expect(self, token: str) -> None:
        if not self._take(token):
            if self._position == len(self._tokens):
                raise ValueError(f"{token!r} is missing at the end")
            raise self._unexpected(f"{token!r} is missing before")

    def _unexpected(self, what: str) -> ValueError:
        _, token = self._tokens[self._position]
        return ValueError(f"{what} {token!r}")


def _tokens(text: str, known: frozenset[str]) -> list[tuple[str, Any]]:
    if len(text) > _LONGEST:
        raise ValueError(f"longer than {_LONGEST} characters; split it into several constraints")
    tokens: list[tuple[str, Any]] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        rest = text[position:].strip()
        foreign = next((word for word in _FOREIGN if rest.startswith(word)), None)
        if not match:
            hint = f" (did you mean {_FOREIGN[foreign]!r}?)" if foreign else ""
            raise ValueError(f"cannot read {show(foreign or rest.split()[0])}{hint}")
        position = match.end()
        if match["number"]:
            tokens.append(("number", _literal(match["number"])))
        elif match["text"]:
            tokens.append(("text", match["text"][1:-1]))
        elif match["run"]:
            tokens.extend(_split(match["run"], known))
        else:
            tokens.append(("sign", match["sign"]))
    return tokens


def _split(run: str, known: frozenset[str]) -> list[tuple[str, Any]]:
    """Read a hyphenated run as one name, or as a subtraction of known names and numbers."""
    tokens: list[tuple[str, Any]] = []
    for part in _known_parts(run, known):
        if tokens:
            tokens.append(("sign", "-"))
        tokens.append(("number", _literal(part)) if _is_figure(part) else ("name", part))
    return tokens


def _known_parts(run: str, known: frozenset[str]) -> list[str]:
    """Cut `run` at hyphens into known names and numbers, the longest first; uncut when that is impossible."""
    words = run.split("-")
    cuts: dict[int, list[str]] = {len(words): []}  # first word -> the parts from there on
    for start in range(len(words) - 1, -1, -1):
        for end in range(len(words), start, -1):
            part = "-".join(words[start:end])
            if end in cuts and (part in known or _is_figure(part)):
                cuts[start] = [part, *cuts[end]]
                break
    return cuts.get(0, [run])


def _is_figure(text: str) -> bool:
    return re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) is not None


def _literal(text: str) -> float:
    value = int(text) if text.isdigit() and len(text) < 100 else float(text)
    if not math.isfinite(value):
        raise ValueError(f"{show(text)} is not a finite number")
    return value


def _compare(sign: str, left: Any, right: Any) -> bool:
    if sign in ("==", "!="):
        return _same(left, right) is (sign == "==")
    if sign in ("in", "not in"):
        if isinstance(right, str) or not isinstance(right, Sequence):
            raise ValueError(f"'in' needs a list on its right, not {show(right)}")
        return any(_same(left, item) for item in right) is (sign == "in")
    return _COMPARE[sign](_number(left), _number(right))


def _same(left: Any, right: Any) -> bool:
    """Say whether two JSON values are equal; true and 1 are not, 1 and 1.0 are."""
    return isinstance(left, bool) is isinstance(right, bool) and bool(left == right)


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{show(value)} is not a number")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{show(value)} is not true or false")
    return value
