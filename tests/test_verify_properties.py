"""Properties of the verifier: rewrites that keep the meaning stay equal, others do not, and no text makes it raise."""

import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from answers.spelling import normalise  # noqa: E402
from verify import extract_answer, is_equivalent, reward  # noqa: E402

settings.register_profile("verify", settings.get_profile("house"), max_examples=120)
settings.load_profile("verify")

ATOMS = st.one_of(
    st.integers(1, 99).map(str),
    st.sampled_from(["x", "y", "n", r"\pi", r"\sqrt{2}", r"\sqrt{x}", r"\frac{1}{3}", "2x", "e^{x}"]),
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds("{}+{}".format, inner, inner), st.builds(r"{}-({})-\frac{{5}}{{777}}".format, inner, inner), st.builds(r"\left({}\right)\left({}\right)".format, inner, inner),
        st.builds(r"\frac{{{}}}{{{}}}".format, inner, ATOMS), st.builds("({})^2".format, inner), st.builds(r"\sin({})".format, inner),
    ),
    max_leaves=6,
).filter(lambda text: text.count(")^2") < 2)  # squares of squares of squares pass the limits on size  # fmt: skip
REWRITES = [
    lambda text: f"({text})", lambda text: f"${text}$", lambda text: rf"\boxed{{{text}}}", lambda text: f"0 + {text}", lambda text: f"1\\cdot({text})",
    lambda text: rf"\left({text}\right)", lambda text: text.replace("+", " + "), lambda text: text.replace(r"\frac", r"\dfrac"), lambda text: f"-(-({text}))",
    lambda text: f"2({text})/2", lambda text: f"{text} + x - x", lambda text: rf"\frac{{{text}}}{{1}}", lambda text: rf"{text} \text{{ cm}}", lambda text: f"z = {text}",
]  # fmt: skip
CHANGES = [
    lambda text: f"{text} + 1",
    lambda text: f"-({text}) + 7",
    lambda text: f"2({text}) + 1/7",
    lambda text: f"({text}, 1)",
    lambda text: f"{text} + 10^{{-9}}",
    lambda text: f"{text} + q",
]
PIECES = [
    *r"\{}()[]$^_,.;:=<>+-*/!|%& 0123456789xyzeifn",
    r"\frac",
    r"\sqrt",
    r"\boxed{",
    r"\text{",
    r"\pm",
    r"\cup",
    r"\infty",
    r"\sum_{",
    "and",
]
JUNK = st.lists(st.one_of(st.sampled_from(PIECES), st.characters()), max_size=40).map("".join)


@given(EXPRESSIONS, st.sampled_from(REWRITES))
def test_rewrites_stay_equal(text, rewrite):
    assert is_equivalent(text, rewrite(text))


@given(EXPRESSIONS, st.sampled_from(CHANGES))
def test_changes_do_not(text, change):
    assert not is_equivalent(text, change(text))


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**4))
def test_numbers(top, bottom):
    assert is_equivalent(rf"\frac{{{top}}}{{{bottom}}}", f"{top}/{bottom}") and is_equivalent(
        f"{3 * top}/{3 * bottom}", f"{top}/{bottom}"
    )
    assert not is_equivalent(f"{top}/{bottom}", f"{top + 1}/{bottom}")
    assert (
        is_equivalent(f"{top:,}", str(top))
        and is_equivalent(f"{top}.00", str(top))
        and not is_equivalent(str(top), str(top + 1))
    )
    assert is_equivalent(f"{top}.0e-3", rf"{top} \times 10^{{-3}}")
    assert top == 0 or not is_equivalent(f"{top}.0e-3", f"{top}.0e-2")


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=6, unique=True), st.randoms())
def test_lists_have_no_order_and_tuples_do(numbers, generator):
    shuffled = generator.sample(numbers, len(numbers))
    as_text, other = ", ".join(map(str, numbers)), ", ".join(map(str, shuffled))
    assert is_equivalent(as_text, other) and is_equivalent(rf"\{{{as_text}\}}", rf"\{{{other}\}}")
    assert is_equivalent(f"({as_text})", f"({other})") == (numbers == shuffled)
    assert not is_equivalent(as_text, ", ".join(map(str, numbers[:-1]))) and not is_equivalent(
        as_text, f"{as_text}, 97"
    )


@given(JUNK, JUNK)
def test_no_text_raises_and_the_relation_is_symmetric(left, right):
    verdict = is_equivalent(left, right)
    assert isinstance(verdict, bool) and verdict == is_equivalent(right, left)
    assert reward(left, right) in (0.0, 1.0)
    normalise(left)


@given(EXPRESSIONS, EXPRESSIONS)
def test_symmetry_on_expressions(left, right):
    assert is_equivalent(left, right) == is_equivalent(right, left)


@given(JUNK)
def test_text_equals_itself_or_is_no_answer(text):
    answer = extract_answer(text)
    assert answer is None or answer.strip()
    if (
        any(map(str.isalnum, text))
        and "\0" not in text
        and "\\text" not in text
        and "box" not in text
        and "$" not in text
        and r"\(" not in text
    ):
        assert is_equivalent(text, text)


@given(EXPRESSIONS, st.text(alphabet="abc xyz.,\n", max_size=80))
def test_the_box_is_found_in_prose(text, prose):
    assert extract_answer(rf"{prose} \boxed{{{text}}} {prose}") == text
