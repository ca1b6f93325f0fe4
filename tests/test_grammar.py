"""The text of an answer as a tree: spellings, tokens, trees, and the limits on all of them."""

import contextlib
import time

import pytest

from answers import grammar, trees
from answers.grammar import parse, read, tokenise
from answers.spelling import normalise, words
from answers.trees import Undecided


def test_normalise_is_idempotent_on_its_own_output():
    for text in (r"$\dfrac{1}{2}\times 27{,}000$", r"x \geq 5", r"3\frac12 \text{ cm}", r"\left[0, 1\right)"):
        assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize("text, normal", [
    (r"$\dfrac12$", r"\frac{1}{2}"),
    (r"5 \text{ cm}^2", r"5\unit{cm^2}"),
    ("273 bags", r"273\unit{bags}"),
    (r"1 \text{ or } 2", r"1 \lor 2"),
    (r"30^{\circ}", r"30\degree"),
    (r"30 \degree", r"30\degree"),
    (r"x = \frac13 \approx 0.33", r"x = \frac{1}{3}"),
    (r"$\approx 3.5$", ""),
    (r"0.1\overline{6}", "(15/90)"),
    ("1 234 567", "1234567"),
    (r"\operatorname{lcm}(2)", r"\lcm (2)"),
    ("50 percent", "50 %"),
])  # fmt: skip
def test_normalise(text, normal):
    assert normalise(text) == normal


def test_words_and_tokens():
    assert words(r"\text{ Tuesday}") == "tuesday" and words("x") == "x" and words("X") == "X"
    assert tokenise("2ab_{12}f(2x)") == ["2", "a", "b_12", "f(2x)"] and tokenise(r"\le") == [r"\le"]
    with pytest.raises(Undecided):
        tokenise("a ? b")


def head(text: str) -> str:
    return parse(normalise(text))[0]


@pytest.mark.parametrize("text, expected", [
    ("1+2", "number"), ("0.5", "decimal"), ("x", "symbol"), ("52_8", "based"), (r"5\unit{cm}", "unit"), ("5!!", "fac2"), (r"1 \lor 2", "\\lor"), ("a+b", "+"), ("2x", "*"), ("a/b", "/"),
    ("x^2", "^"), ("n!", "factorial"), (r"\sin x", "sin"), ("5%", "percent"), ("x=1", "="), (r"1<x\le 2", "< <="),
    ("1,2", ","), (r"\{1,2\}", "{}"), ("(1,2)", "()"), ("(1,2]", "(]"), (r"A\cup B", "\\cup"), ("|x|", "fabs"),
    ("1:2", ":"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "rows"), (r"\int_0^1 x dx", "integral"), (r"\lim_{x\to 0} x", "limit"),
])  # fmt: skip
def test_each_form_of_tree(text, expected):
    assert head(text) == expected


def test_trees_do_not_depend_on_the_order_of_operands_nor_on_who_is_greater():
    assert parse("a+b*c") == parse("c*b+a") and parse("x>5") == parse("5<x") and parse("a-b") != parse("b-a")
    assert (
        parse("-x^2") == parse("-(x^2)") and parse("2^3^4") == parse("2^(3^4)") and parse("a-b-c") == parse("(a-b)-c")
    )


@pytest.mark.parametrize("text", [
    "", "+", "(", ")", "1 2", "1.5.2", "(1,2", "[1)", r"a;b\\c", "x^{" * 50,
    "(" * 41 + "1" + ")" * 41, "1" * 101, "1e101", "x" * 2001,
])  # fmt: skip
def test_what_is_outside_of_the_grammar_or_its_limits_is_undecided(text):
    with pytest.raises(Undecided):
        parse(text)


def test_arithmetic_of_bare_numbers_is_told_from_values():
    for text, is_arithmetic in (
        ("3*4", True),
        ("2+3", True),
        ("3+2x", False),
        (r"3\sqrt{2}", False),
        (r"\frac{2}{4}", False),
    ):
        assert read(text)[1] is is_arithmetic


def test_parsing_takes_n_log_n_steps():
    """Twenty times the terms take far less than four hundred times the time: a sort per term would take that."""
    counts = []
    for terms in (40, 800):
        calls = 0
        original = grammar.total

        def counted(*arguments):
            nonlocal calls
            calls += len(arguments[1])
            return original(*arguments)  # noqa: B023

        grammar.total = counted
        try:
            read.cache_clear()
            parse("a" + "-a" * terms)
        finally:
            grammar.total = original
        counts.append(calls)
    assert counts[1] < 25 * counts[0]


def test_just_inside_the_limits():
    assert parse("1" * trees.MAX_DIGITS)[0] == "number" and parse("(" * 39 + "1" + ")" * 39) == parse("1")
    assert len(parse("+".join("x" * 1000))) == 1001


@pytest.mark.parametrize(
    "run", [" ", "\n", " \n", ",", ", ", "1", "1 ", "1,234 ", "a ", "{", "}", "(", "()", "\\", "^", "^ ", "$", "."]
)
@pytest.mark.parametrize("start", ["", "1", "x", "^", "^{", r"\text{", r"\frac1", "}", "5 words", "(", r"_{\text{"])
def test_no_run_of_anything_is_slow_to_normalise_or_parse(start, run):
    begin = time.process_time()
    normalise(start + run * (8000 // len(run)) + "x")
    with contextlib.suppress(Undecided):
        parse(start + run * (1900 // len(run)) + "x")
    assert time.process_time() - begin < 4  # far above what it takes, far below a blow-up
