"""Parse and check the formulas of SyntaxGym's predictions, and evaluate them on surprisals.

    formula     = conjunction { "|" conjunction }
    conjunction = comparison { "&" comparison }
    comparison  = sum [ ("<" | ">" | "=") sum ]
    sum         = term { ("+" | "-") term }
    term        = "-" term | number | region | "(" formula ")" | "[" formula "]"
    region      = "(" (integer | "*") ";" "%" condition "%" ")"

``(5;%match_sing%)`` is the surprisal of region 5 in the condition ``match_sing``. ``(*;%match_sing%)`` is the surprisal
of all regions in this condition. The function ``parse_formula`` checks that only numbers are added and compared, that
only truth values are joined by ``&`` and ``|``, and that a whole formula is a truth value.

The parser of ``syntaxgym-core`` (at commit 09d3767) differs. It reads no square brackets and binds ``+`` tighter than
``-``. If an operator is repeated, as in ``A & B & C``, that parser evaluates only its first two operands: ``A & B``.

``<`` and ``>`` are strict. If the two sides are equal except for rounding (see ``TIE_TOLERANCE``), the comparison is a
``TIE``, which is neither true nor false. Truth values are ordered false < tie < true. The value of ``&`` is the minimum
of its operands, and the value of ``|`` is the maximum (Kleene's three-valued logic). An equation with ``=`` is true if
both sides are equal within the tolerance of ``syntaxgym-core``, and otherwise false. It is never a tie.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, NamedTuple

TIE_TOLERANCE: Final = 1e-6
"""Two sides tie if they differ by at most this number times the larger side, or times 1 bit if both are below 1 bit.
Surprisals change by about this much when a sentence is scored in another batch. A student (--embed-dim 128
--num-blocks 4, 80 steps) scored 200 test sentences of the sample corpus in batches of 1 to 8,192 positions on a CPU.
The surprisal of a region of one to three tokens differed by up to 9.5e-7 times itself (or times 1 bit, if it was below
1 bit). The surprisal of a whole sentence differed by up to 4.7e-8 times itself."""
EQUAL_RELATIVE: Final = 1e-5
EQUAL_ABSOLUTE: Final = 1e-3
"""The formula ``a = b`` is true if |a - b| <= ``EQUAL_ABSOLUTE`` + ``EQUAL_RELATIVE`` |b|, in bits, as in
syntaxgym-core."""
MAX_DEPTH: Final = 50
"""Largest number of brackets and minus signs inside each other. There is a limit because a formula may come from a
stranger's file."""
MAX_TOKENS: Final = 500
"""A formula may have at most this many numbers, regions and signs together. There is a limit because a formula
may come from a stranger's file."""


class Truth(IntEnum):
    """The value of a formula, in the order that ``&`` and ``|`` use."""

    FALSE = 0
    TIE = 1
    TRUE = 2


@dataclass(frozen=True, slots=True)
class Number:
    """A number that is written in the formula, in bits."""

    value: float


@dataclass(frozen=True, slots=True)
class Region:
    """The surprisal of a region in a condition."""

    condition: str
    number: int | None
    """Number of the region; None for ``*``, which stands for all regions."""
    column: int
    """Column in the formula, from 1."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator and its operands: two numbers for ``+ - < > =``, two truth values for ``& |``."""

    operator: Literal["+", "-", "<", ">", "=", "&", "|"]
    left: "Expression"
    right: "Expression"


Expression = Number | Region | Operation
Values = Callable[[Region], float]
"""Returns the surprisal of a region, in bits."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A prediction about an item."""

    text: str
    expression: Operation

    def regions(self) -> Iterator[Region]:
        """Yield every region that the formula names, in order."""
        return _regions(self.expression)

    def evaluate(self, values: Values) -> Truth:
        """Return whether the prediction is true, false or a tie."""
        return _truth(self.expression, values)


class FormulaError(ValueError):
    """A malformed formula. The message names the column and what was expected."""


def parse_formula(text: str) -> Formula:
    """Parse a text and return its formula.

    Raises:
        FormulaError: If the text is not a formula. The error names the column, from 1.
    """
    parser = _Parser(text)
    expression, column = parser.disjunction(), parser.first_column
    if parser.ahead.kind != "end":
        raise parser.unexpected("an operator or the end")
    if not isinstance(expression, Operation) or not _is_truth(expression):
        raise FormulaError(f"column {column}: a number, expected a comparison with <, > or =")
    return Formula(text, expression)


class _Token(NamedTuple):
    kind: str
    text: str
    column: int


_TOKENS: Final = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<region>\(\s*(?P<region_number>\d{1,9}|\*)\s*;\s*%(?P<condition>[^%()\[\];]+)%\s*\))"
    r"|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<sign>[-+<>=&|()\[\]])"
)


def _tokens(text: str) -> Iterator[_Token]:
    place = num_tokens = 0
    while place < len(text):
        found = _TOKENS.match(text, place)
        if found is None:
            hint = ", expected (number;%condition%)" if text[place] in ";%*" else ""
            raise FormulaError(f"column {place + 1}: {text[place]!r} is not part of a formula{hint}")
        kind = next(name for name in ("space", "region", "number", "sign") if found[name] is not None)
        if kind != "space":
            num_tokens += 1
            if num_tokens > MAX_TOKENS:
                raise FormulaError(f"column {place + 1}: more than {MAX_TOKENS} numbers, regions and signs")
            if kind == "number" and not math.isfinite(float(found[0])):
                raise FormulaError(f"column {place + 1}: {found[0]} is too large, expected a finite number")
            yield _Token(found[0] if kind == "sign" else kind, found[0], place + 1)
        place = found.end()
    yield _Token("end", "the end", len(text) + 1)


class _Parser:
    """A recursive-descent parser with one method per rule of the grammar."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._depth = 0
        self.ahead = next(self._tokens)
        self.first_column = self.ahead.column

    def disjunction(self) -> Expression:
        left, column = self._conjunction()
        while self.ahead.kind == "|":
            left = self._joined("|", left, column, self._conjunction)
        return left

    def _conjunction(self) -> tuple[Expression, int]:
        left, column = self._comparison()
        while self.ahead.kind == "&":
            left = self._joined("&", left, column, self._comparison)
        return left, column

    def _joined(
        self,
        operator: Literal["&", "|"],
        left: Expression,
        column: int,
        operand: Callable[[], tuple[Expression, int]],
    ) -> Operation:
        self._take()
        right, right_column = operand()
        for side, place in ((left, column), (right, right_column)):
            if not _is_truth(side):
                raise FormulaError(f"column {place}: a number next to {operator!r}, expected a comparison")
        return Operation(operator, left, right)

    def _comparison(self) -> tuple[Expression, int]:
        column = self.ahead.column
        left = self._sum()
        if self.ahead.kind not in ("<", ">", "="):
            return left, column
        compared = self._arithmetic(left, column, self._sum)
        if self.ahead.kind in ("<", ">", "="):
            raise self.unexpected("'&', '|' or the end: comparisons cannot be chained")
        return compared, column

    def _sum(self) -> Expression:
        column = self.ahead.column
        left = self._term()
        while self.ahead.kind in ("+", "-"):
            left = self._arithmetic(left, column, self._term)
        return left

    def _arithmetic(self, left: Expression, column: int, operand: Callable[[], Expression]) -> Operation:
        operator = self._take()
        right_column = self.ahead.column
        right = operand()
        for side, place in ((left, column), (right, right_column)):
            if _is_truth(side):
                raise FormulaError(f"column {place}: a comparison next to {operator.kind!r}, expected a number")
        return Operation(operator.kind, left, right)  # type: ignore[arg-type]

    def _term(self) -> Expression:
        token = self._take()
        if token.kind == "number":
            return Number(float(token.text))
        if token.kind == "region":
            number, condition = token.text[1:-1].split(";", 1)
            number = number.strip()
            return Region(condition.strip()[1:-1].strip(), None if number == "*" else int(number), token.column)
        if token.kind not in ("-", "(", "["):
            raise FormulaError(
                f"column {token.column}: found {token.text!r}, expected a number, (number;%condition%) or a bracket"
            )
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FormulaError(f"column {token.column}: more than {MAX_DEPTH} brackets or signs inside each other")
        if token.kind == "-":
            column = self.ahead.column
            inner = self._term()
            if _is_truth(inner):
                raise FormulaError(f"column {column}: a comparison after '-', expected a number")
            inner = Operation("-", Number(0.0), inner)
        else:
            inner = self.disjunction()
            closing = {"(": ")", "[": "]"}[token.kind]
            if self.ahead.kind != closing:
                raise self.unexpected(f"{closing!r} for the {token.kind!r} at column {token.column}")
            self._take()
        self._depth -= 1
        return inner

    def _take(self) -> _Token:
        token = self.ahead
        if token.kind != "end":
            self.ahead = next(self._tokens)
        return token

    def unexpected(self, expected: str) -> FormulaError:
        return FormulaError(f"column {self.ahead.column}: found {self.ahead.text!r}, expected {expected}")


def _is_truth(expression: Expression) -> bool:
    return isinstance(expression, Operation) and expression.operator not in ("+", "-")


def _regions(expression: Expression) -> Iterator[Region]:
    if isinstance(expression, Region):
        yield expression
    elif isinstance(expression, Operation):
        yield from _regions(expression.left)
        yield from _regions(expression.right)


def _number(expression: Expression, values: Values) -> float:
    if isinstance(expression, Number):
        return expression.value
    if isinstance(expression, Region):
        return values(expression)
    left, right = _number(expression.left, values), _number(expression.right, values)
    return left + right if expression.operator == "+" else left - right


def _truth(expression: Expression, values: Values) -> Truth:
    assert isinstance(expression, Operation)
    if expression.operator in ("&", "|"):
        both = _truth(expression.left, values), _truth(expression.right, values)
        return min(both) if expression.operator == "&" else max(both)
    left, right = _number(expression.left, values), _number(expression.right, values)
    if expression.operator == "=":
        return Truth.TRUE if abs(left - right) <= EQUAL_ABSOLUTE + EQUAL_RELATIVE * abs(right) else Truth.FALSE
    if abs(left - right) <= TIE_TOLERANCE * max(1.0, abs(left), abs(right)):
        return Truth.TIE
    return Truth.TRUE if (left < right) == (expression.operator == "<") else Truth.FALSE
