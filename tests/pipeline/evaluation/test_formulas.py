"""Tests of formulas: the forms of the released suites, precedence, and errors that name the column."""

import pytest

from pipeline.evaluation.formulas import MAX_DEPTH, FormulaError, Region, Truth, parse_formula

TRUE, FALSE, TIE = Truth.TRUE, Truth.FALSE, Truth.TIE


def outcome(text: str, **values: float) -> Truth:
    """Evaluate a formula. ``a3`` is region 3 of condition a, and ``a`` is all its regions."""

    def value(region: Region) -> float:
        return values[region.condition.replace("-", "_") + ("" if region.number is None else str(region.number))]

    return parse_formula(text).evaluate(value)


@pytest.mark.parametrize(
    ("formula", "values", "expected"),
    [
        # center_embed: sums of regions
        ("[ (6;%p%) + (7;%p%) ] < [ (6;%i%) + (7;%i%) ]", {"p6": 1, "p7": 5, "i6": 4, "i7": 3}, TRUE),
        ("[ (6;%p%) + (7;%p%) ] < [ (6;%i%) + (7;%i%) ]", {"p6": 1, "p7": 5, "i6": 4, "i7": 1}, FALSE),
        ("[ (6;%p%) + (7;%p%) ] < [ (6;%i%) + (7;%i%) ]", {"p6": 1, "p7": 5, "i6": 4, "i7": 2}, TIE),
        # fgd_subject: two comparisons, the one greater and the other smaller, a space after the end
        ("[(3;%wn%) > (3;%tn%) ] & [(4;%wg%) < (4;%tg%) ] ", {"wn3": 3, "tn3": 2, "wg4": 1, "tg4": 2}, TRUE),
        ("[(3;%wn%) > (3;%tn%) ] & [(4;%wg%) < (4;%tg%) ] ", {"wn3": 3, "tn3": 2, "wg4": 2, "tg4": 1}, FALSE),
        # npi_src_any: three, of which the last must count
        ("[ (8;%np%) < (8;%pp%) ] & [ (8;%nn%) < (8;%pn%) ] & [ (8;%np%) < (8;%pn%) ]",
         {"np8": 2, "pp8": 3, "nn8": 1, "pn8": 2.5}, TRUE),
        ("[ (8;%np%) < (8;%pp%) ] & [ (8;%nn%) < (8;%pn%) ] & [ (8;%np%) < (8;%pn%) ]",
         {"np8": 2, "pp8": 3, "nn8": 1, "pn8": 1.5}, FALSE),
        # npz_obj: names with hyphens, a difference of differences in double brackets
        ("[(5;%n-n%) > (5;%n-c%) ] &  [(5;%n-n%) > (5;%o-n%) ] & [[(5;%n-n%) - (5;%n-c%) ] > [(5;%o-n%) - (5;%o-c%) ]]",
         {"n_n5": 9, "n_c5": 4, "o_n5": 6, "o_c5": 2}, TRUE),
        ("[(5;%n-n%) > (5;%n-c%) ] &  [(5;%n-n%) > (5;%o-n%) ] & [[(5;%n-n%) - (5;%n-c%) ] > [(5;%o-n%) - (5;%o-c%) ]]",
         {"n_n5": 9, "n_c5": 4, "o_n5": 8, "o_c5": 2}, FALSE),
        # number_prep, reflexive_src_masc and subordination: with and without spaces
        ("[(6;%s%) < (6;%m%)] & [(6;%p%) < (6;%q%)]", {"s6": 1, "m6": 2, "p6": 1, "q6": 2}, TRUE),
        ("[(3;%s_n%) > (3;%n_n%) ] & [(3;%s_m%) < (3;%n_m%) ]", {"s_n3": 2, "n_n3": 1, "s_m3": 1, "n_m3": 1}, TIE),
        # in the comments of two suites: equality, and a number
        ("[(5;%a%) = (5;%b%) ]", {"a5": 2.0, "b5": 2.0005}, TRUE),
        ("[(5;%a%) = (5;%b%) ]", {"a5": 2.0, "b5": 2.1}, FALSE),
        ("[(3;%a%) - (3;%b%) ] - [(3;%c%) - (3;%d%) ] > 0", {"a3": 5, "b3": 1, "c3": 4, "d3": 1}, TRUE),
        # all regions
        ("(*;%a%) < (*;%b%)", {"a": 10, "b": 11}, TRUE),
    ],
)  # fmt: skip
def test_forms_of_released_suites_have_values_computed_by_hand(formula: str, values: dict, expected: Truth) -> None:
    assert outcome(formula, **values) is expected


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("5 - 2 - 1 = 2", TRUE), ("5 - (2 - 1) = 4", TRUE), ("1 - 1 + 1 = 1", TRUE), ("-2 + 3 = 1", TRUE),
        ("-[1 + 2] < 0", TRUE), ("1 < 2 | 1 < 2 & 2 < 1", TRUE), ("(1 < 2 | 1 < 2) & 2 < 1", FALSE),
        ("1.5 > .5e1", FALSE), ("((1) < [2])", TRUE),
        ("1 < 1", TIE), ("1 > 1", TIE), ("1 < 1 & 2 < 1", FALSE), ("1 < 1 & 1 < 2", TIE),
        ("1 < 1 | 1 < 2", TRUE), ("1 < 1 | 2 < 1", TIE), ("1 < 1.0000001", TIE), ("0 < 0.00001", TRUE),
    ],
)  # fmt: skip
def test_precedence_brackets_and_ties_are_as_documented(formula: str, expected: Truth) -> None:
    assert outcome(formula) is expected


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("", r"column 1: found 'the end', expected a number, \(number;%condition%\) or a bracket"),
        ("1 + 2", "column 1: a number, expected a comparison"),
        ("1 < 2 < 3", "column 7: found '<'.*cannot be chained"),
        ("[1 < 2", r"column 7: found 'the end', expected '\]' for the '\[' at column 1"),
        ("(1 < 2]", r"column 7: found '\]', expected '\)'"),
        ("1 < 2)", r"column 6: found '\)', expected an operator or the end"),
        ("1 < 2 & 3", "column 9: a number next to '&'"),
        ("(1 < 2) + 3 < 4", r"column 1: a comparison next to '\+'"),
        ("1 < -(1 < 2)", "column 6: a comparison after '-'"),
        ("(6;match) < 1", r"column 3: ';' is not part of a formula, expected \(number;%condition%\)"),
        ("1 <= 2", "column 4: found '='"),
        ("1 * 2 < 3", r"column 3: '\*' is not part"),
        ("__import__('os')", "column 1: '_' is not part"),
        ("1e999 > 1", "column 1: 1e999 is too large"),
        ("[" * 9999, f"column {MAX_DEPTH + 1}: more than"),
        ("1" + "+1" * 9999 + "<1", "more than 500"),
    ],
)
def test_an_error_names_the_column(formula: str, message: str) -> None:
    with pytest.raises(FormulaError, match=message):
        parse_formula(formula)
