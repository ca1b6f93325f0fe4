"""The verifier: each rule of verify.py's header, each class of fault, hostile text, and the labelled pairs."""

import doctest
import gzip
import json
import os
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest

import verify
from answers import compare, copying, extract, grammar, spelling, trees, units, values
from verify import extract_answer, is_equivalent, reward

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
HANG = 4.0  # seconds: far above what anything takes (see bench/verifier.py), far below what a blow-up does


def needs(path: Path):
    return pytest.mark.skipif(not path.exists(), reason=f"{path.name} is not beside the repository")


def rows(path: Path) -> list[dict]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.decode().splitlines()]


EQUAL = r"""
scientific      | 1.39e-10 = 1.39 \times 10^{-10} | 1.39E-10 = 1.39*10^{-10} | 1e2 = 100 | 7.5 \cdot 10^{7} = 7.5e7 | 1.39*10**-10 = 1.39e-10
python style    | sqrt(2)/2 = \frac{\sqrt{2}}{2} | 2**(1/2) = \sqrt2 | 3*x**2*y = 3yx^2 | exp(-x) = e^{-x}
mixed numbers   | 1\frac{4}{5} = 9/5 | 3 1/2 = 3.5 | 2\frac67 = \frac{20}{7} | -1\frac12 = -1.5 | 2\frac{5}{3} = \frac{10}{3}
units           | 5 cm = 5 | 15\mbox{ cm}^2 = 15 | 273 bags = 273 | 60 km/h = 60 | 89 \text{ kilograms} = 89 | 12 square feet = 12 | 350\ \mathrm{g} = 350
degrees         | 90^\circ = 90 | 90^{\circ} = 90\text{ degrees} | 30° = 30^\circ | \sin 30^\circ = 1/2
percent         | 28 percent = 28\% | 28\% = 0.28 | 28 pct = 28%
money           | \$5.00 = 5 | \$1,430 = 1430 | 14 \text{ dollars} = \$14
thousands       | 1,234,567 = 1234567 | 27{,}000 = 27000 | 11,\! 111,\! 100 = 11111100 | 1 000 = 1000 | 1,234/2 = 617 | 100,200 = 100, 200
decimals        | 0.5 = 1/2 | .5 = 0.50 | 1.41421 = \sqrt{2} | 0.333333 = \frac13 | 0.666666 = 2/3 | 5. = 5 | 004 = 4
repeating       | 0.\overline{3} = 1/3 | 0.1\overline{6} = \frac16 | 0.333... = 1/3 | 1.\overline{09} = 12/11
complex         | 7i-2 = -2+7i | \frac{1+i}{2} = 0.5+0.5i | e^{i\pi} = -1 | \sqrt{-1} = i
algebra         | (x+1)^2 = x^2+2x+1 | \frac{x^2-1}{x-1} = x+1 | \frac{1}{\sqrt2+1} = \sqrt2-1 | 2^{n+1} = 2\cdot2^n | n! = n(n-1)! | 2^{2^n}+1 = 1+2^{2^n} | 4^n+1 = 2^{2n}+1
functions       | \sin^2 x+\cos^2 x = 1 | \log_2 8 = 3 | \sin^{-1} 1 = \frac\pi2 | \ln e^2 = 2 | \binom n2 = n(n-1)/2 | \lfloor 3.7 \rfloor = 3 | |x-1| = |1-x| | \lceil \frac n2 \rceil = -\lfloor -n/2 \rfloor
roots           | \sqrt[3]{-8} = -2 | (-8)^{1/3} = -2 | \sqrt{768} = 16\sqrt3 | \sqrt{x^2} = |x|
inequalities    | x > 5 : 5 < x | x >= 5 : x \geq 5 | 2x > 4 : x > 2 | x \ne 3 : 3 \neq x | -2 \le x < 7 : 7 > x \ge -2
intervals       | x > 5 : (5,\infty) | x \in [-2,7] : -2 \le x \le 7 | (0,1] \cup [2,3) : [2,3) \cup (0,1] | x<1 \text{ or } x>2 : (2,\infty) \cup (-\infty,1)
lists           | 1,2,3 = 3, 1, 2 | 1 \text{ and } 3 = 3,1 | \{1,2\} = 2,1 | 21, 16 or 11 = 11,16,21 | \pm 2 = 2,-2 | 3\pm\sqrt2 = 3-\sqrt2, 3+\sqrt2
tuples          | (1,2) = (1.0, 2) | (1, \frac92) = (1, 4.5) | 1,2 = (1,2) | \left(0, -6\right) = (0,-6)
equations       | y=2x+3 : 2y = 4x+6 | 5x-7y+4=0 : -5x+7y-4=0 | y=2x+3 : y-2x-3=0 | 0 = x-5 : x = 5
prefixes        | x=5 : 5 | k = \frac13 : 1/3 | f(x)=x^2 : x^2 | (x,y)=(1,2) : (1,2) | |AB|=1 : 1 | A:B=1 : 1 | x=2, y=3 : 2,3 | x = \frac13 \approx 0.33 : 1/3
matrices        | \begin{pmatrix}0.5&1\\2&3\end{pmatrix} = \begin{bmatrix}\frac12&1\\2&3\end{bmatrix} | \begin{pmatrix}1 \\ 2\end{pmatrix}+\begin{pmatrix}3 \\ 4\end{pmatrix} = \begin{pmatrix} 4 \\ 6 \\ \end{pmatrix}
bases           | 52_8 = 52_{8} | (1101)_2 = 1101_{\text{two}} | 255 = 0xFF
text            | \text{even} = even | Tuesday = tuesday | \textbf{(C)} = C | (C) = C | \text{E} = E
ratios          | 11:21 = 11:21 | V_1:V_2=11:21 : 11:21
sums            | \sum_{k=1}^{10} k = 55 | \sum_{k=1}^{n} k = \frac{n(n+1)}{2}
wrapping        | $\frac{1}{2}$ = 0.5 | \boxed{3} = 3 | \(3\) = 3 | \left(3\right) = 3 | \dfrac12 = \tfrac{1}{2} | \[3\] = 3 | \approx 3.5 = 3.5 | Therefore $x \geq 5$ is it. = x>=5
special         | \infty = +\infty | -\infty = -\infty | \emptyset = \varnothing
"""
DIFFERENT = r"""
factorials      | 1/2006! = 1/2004! | 100000!+1 = 100000! | n! = n
tiny and huge   | 2^{-98} = 2^{-99} | 1.39e-10 = -1.39e-10 | 2^{2^{40}}+1 = 2^{2^{40}} | 1e500 = 1e400 | 10^{100}+1 = 10^{100} | (1+x)^{5000}+1 = (x+1)^{5000}
numbers         | 4200 = 42 | 0.42 = 42 | 42i = 42 | 2x = 2 | 1/3 = 0.33 | \pi = 3.14 | 1 = 1.0001 | 1.5.2 = 1.52 | 3 4 = 12 | 2\frac12 = 1 | 1.414214 = 1.414213 | \frac{1}{23} = \frac{12}{3} | 1 2 = 12 | 2^{1}3 = 2^{13}
inequalities    | >42 : 42 | \neq 42 : 42 | x<42 : 42 | x<5 : x>5 | x<5 : x\le 5 | -x<5 : x<-5 | x<5 : (-\infty,5]
intervals       | (0,1] = [0,1] | (-\infty,2)\cup(3,\infty) = (-\infty,2) | -[0,1) = 1
lists           | 1,2 = 1 | 1,2 = 1,2,2 | 1,2 = 1,3 | \pm 2 = 2 | 42 \text{ or } 43 = 42 | (1,2) = (2,1) | \{1,2\} = (1,2) | (1,2) = (1,2,3) | [1,2] = (1,2)
equations       | y=2x+3 : y=2x+4 | y=-2x : y=2x | 7=11a+c : 11a+c | 2x+z=1 : 1 | x^2=4 : x=2 | x=2,y=3 : x=3,y=2
symbols         | x = X | AB = ab | x = y | f(2x) = f(x) | |x| = x | \lfloor x \rfloor = x | \sin x = \cos x | \lfloor \frac{n-1}{2} \rfloor = \lfloor \frac{n-1}{3} \rfloor | 2sinx = 2 | 2 sinx = 2 | I(0)e^{-t} = I(0)e^{t} | (-1)^n = 1
text            | even = odd | A = B | \text{any number, e.g. } 42 = 42 | 4 \text{ or more} = 4 | None = 0 | \emptyset = 0
bases           | 52_8 = 42 | 52_8 = 52_7 | 1112112_3 = 1112122_3
special         | \infty = 42 | \infty = -\infty | 1/0 = 42 | x/x = 42 | \log(0) = 42 | 12:00 = 1:00
matrices        | \begin{pmatrix}1\\2\end{pmatrix} = \begin{pmatrix}2\\1\end{pmatrix} | \begin{pmatrix}1&2\end{pmatrix} = \begin{pmatrix}1\\2\end{pmatrix}
"""


def pairs(table: str):
    for line in table.strip().splitlines():
        rule, _, cases = line.partition("|")
        for case in cases.split(" | "):
            left, right = case.strip().split(" : " if " : " in case else " = ")
            yield pytest.param(left, right, id=f"{rule.strip()}: {case.strip()}")


@pytest.mark.parametrize("left, right", list(pairs(EQUAL)))
def test_equal(left, right):
    assert is_equivalent(left, right) and is_equivalent(right, left)


@pytest.mark.parametrize("left, right", list(pairs(DIFFERENT)))
def test_different(left, right):
    assert not is_equivalent(left, right) and not is_equivalent(right, left)


@pytest.mark.parametrize("text, answer", [
    (r"\boxed{1} and then \boxed{2}.", r"2"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{(98,2)} \quad \text{and} \quad \boxed{(99,503)}", "(98,2), (99,503)"),
    (r"\boxed{\boxed{7}}", "7"),
    (r"\boxed 43", "43"),
    (r"\fbox{43}", "43"),
    (r"It is 5. \boxed{}", None),
    (r"\boxed{\boxed{}}", None),
    (r"\boxed{42", None),
    ("#### 1,234", "1,234"),
    ("The answer is 5.", "5"),
    ("The answer is $x = 5$. I hope it is correct.", "$x = 5$"),
    ("The answers are $1$ and $2$.", "$1$ and $2$"),
    ("Final Answer: The volume of $ABCDEFGH$ is 120. I hope it is correct.", "120"),
    ("**Answer:** (C)", "(C)"),
    (r"We find that $x \lt 3$.", r"$x \lt 3$"),
    ("In the end there are 3.5", "3.5"),
    ("42", "42"),
    ("Tuesday", "Tuesday"),
    ("I do not know what to do here", None),
    ("", None),
    (" \n ", None),
    (None, None),
    (42, None),
])  # fmt: skip
def test_extract(text, answer):
    assert extract_answer(text) == answer


def test_reward_is_a_float_and_needs_an_answer():
    assert reward(r"so \boxed{\frac{2}{4}}", "0.5") == 1.0 and isinstance(reward("x", "y"), float)
    for text, gold in (
        ("", ""),
        (r"\boxed{}", ""),
        (None, None),
        ("no answer here at all", "None"),
        (r"\boxed{}", r"\boxed{}"),
    ):
        assert reward(text, gold) == 0.0


@pytest.mark.parametrize(
    "nothing", [None, "", "  \n", "\0", "4\x002", r"\boxed{}", "$$", r"\text{}", 42, b"42", float("nan")]
)
def test_nothing_equals_nothing(nothing):
    assert (
        is_equivalent(nothing, nothing) is False
        and is_equivalent(nothing, "42") is False
        and is_equivalent("42", nothing) is False
    )


def test_import_is_light():
    code = "import sys, verify; verify.is_equivalent('3*5', '15'); print([m for m in ('sympy', 'mpmath', 'torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"


def test_steps_of_countdown():
    cases = [(f"{a}{operator}{b}", str(a + b)) for a in range(1, 40) for b in range(1, 20) for operator in "+-*/"]
    for left, right in cases:
        assert is_equivalent(left, right) == (Fraction(eval(left)).limit_denominator() == int(right)), left


# -------------------------------------------------------------------------------------------------------- hostile text
BOMBS = [
    "__import__('os').system('touch verify_canary')", "open('verify_canary','w')", "(lambda: 42)()", "print(42)", "exit()", "9**9**9**9",
    "10^{10^{10}}", "7^{7^{7^{7}}}-7^{7^{7^{7}}}+42", "99999999!", "3!!!!!!", r"\binom{100000000}{50000000}", r"\frac{99999999!}{99999998!}", "9" * 5000,
    "x^{" + "9" * 500 + "}", "(" * 3000, "(" * 500 + "42" + ")" * 500, "-" * 900 + "42", r"\frac{1}{" * 300 + "2" + "}" * 300, r"\sqrt{" * 90 + "2" + "}" * 90,
    "1+" * 900 + "1", "=".join("x" * 300), r"1\ne " * 300, "x" * 2000, "," * 1000, r"\frac" * 300, "$" * 5000, "{" * 2000 + "}" * 2000, r"\left" * 500,
    "and " * 500, r"\ " * 900, "%" * 1500, "e^{e^{e^{e^{e}}}}", "(1+10^{-100})^{10^{100}}", "(1+i)^{10^6}", r"\prod_{k=1}^{10^7} k", r"\sum_{k=1}^{10^9} \frac1k",
    r"\int_0^1" * 10 + "x" + "dx" * 10, r"\max(" + ",".join(f"x^{{{n}}}" for n in range(99)) + ")", ",".join(f"x_{{{n}}}" for n in range(200)),
    "0." + "3" * 1900, "1.1" * 600, r"\text{" * 300, "4\u200d2", "\ud800", "\u0664\u0662", "\x1b[31m42", "5000!" + "+1/4999!" * 200, r"\tan(" * 30 + "x" + ")" * 30,
    r"\begin{pmatrix}" + r"1&" * 600 + r"\end{pmatrix}", "1000!^{1000!}", "0^{0^{0}}", r"\frac{0}{0}", "x^{x^{x^{x^{x}}}}", "(" * 30 + "x+1" + ")^{99}" * 30,
]  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
def test_bombs_are_bounded_and_wrong(bomb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text, gold in ((bomb, "41"), (rf"The answer is $\boxed{{{bomb}}}$.", "41"), (bomb, bomb + "+1")):
        start = time.perf_counter()
        assert reward(text, gold) == 0.0 and is_equivalent(text, gold) is False
        assert time.perf_counter() - start < 2 * HANG  # two verdicts
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "unit",
    [
        " ",
        "$",
        "a $x ",
        r"\boxed{",
        r"\boxed{1},",
        "{",
        "}",
        "answer is ",
        "#### 1\n",
        "answer ",
        "is ",
        r"\(",
        r"\[ ",
        "and ",
        "1,",
        "x. So it is 3. ",
        "\\",
        "\\\\[",
        "\\\\(",
        r"\$x",
        r"\boxed",
        r"\fbox ",
        r"\boxed{1} and ",
        r"\boxed{" + "{}" * 9000 + "}, ",
        r"\text{",
        "$$x",
        "answer" + " " * 900,
        "7",
        "-.",
        "\n",
        "\n \n",
    ],
)
def test_extraction_from_a_megabyte_is_quick(unit):
    long = unit * (10**6 // len(unit))
    for text in (long, r"\boxed{" + long, "The answer is " + long, long + " The answer is 5", long + r"\boxed{5}"):
        start = time.process_time()
        extract_answer(text)
        assert time.process_time() - start < HANG


@pytest.mark.parametrize(
    "unit", [" ", "\n", "\t ", "$", "\\\\[", "(", "{", "\\", "1", "1,", "^ ", r"\text{", "%", "answer ", "is "]
)
def test_a_verdict_on_a_megabyte_is_quick(unit):
    """Also in the middle of other text, where a run cannot be stripped, and at the longest that is still normalised."""
    for size in (10**6, 7990):
        long = unit * (size // len(unit))
        for text in (long, f"1{long}x", f"^{long}x", f"$x$ is one of the words {long} 5"):
            start = time.process_time()
            assert not is_equivalent(text, "42 x") and is_equivalent(text, text) in (True, False)
            assert time.process_time() - start < HANG


# --------------------------------------------------------------------------------------------------- the labelled data
@needs(SHARED / "verify_cases" / "dev2.jsonl")
@pytest.mark.parametrize("name, least, most", [("dev.jsonl", 0.995, 0), ("dev2.jsonl", 0.97, 5)])
def test_accuracy_on_labelled_pairs(name, least, most):
    cases = rows(SHARED / "verify_cases" / name)
    judges = {"output": lambda row: reward(row["pred"], row["gold"]) == 1.0}
    bare = lambda row: is_equivalent(row["pred"], row["gold"])  # noqa: E731
    verdicts = [judges.get(row["pred_kind"], bare)(row) for row in cases]
    right = sum(verdict == row["expected"] for verdict, row in zip(verdicts, cases))
    accepted = sum(verdict and not row["expected"] for verdict, row in zip(verdicts, cases))
    assert right / len(cases) >= least and accepted <= most


@needs(SHARED / "verify_cases" / "hostile_dev.jsonl.gz")
def test_hostile_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for row in rows(SHARED / "verify_cases" / "hostile_dev.jsonl.gz"):
        start = time.perf_counter()
        verdict = reward(row["text"], row["gold"])
        assert time.perf_counter() - start < HANG, row["id"]
        assert row["truly_equal"] is not False or verdict == 0.0, row["id"]
    assert not os.listdir(tmp_path)


@needs(SHARED / "data")
def test_every_gold_answer_equals_itself():
    golds = {str(row["answer"]) for path in sorted((SHARED / "data").glob("*.jsonl")) for row in rows(path)} - {""}
    failed = [
        gold
        for gold in golds
        if not is_equivalent(gold, gold)
        or reward(rf"We see that it is $\boxed{{{gold}}}$, which was asked for.", gold) != 1.0
    ]
    assert len(golds) > 5000 and not failed


@pytest.mark.parametrize("lesson", [verify, compare, copying, extract, spelling, grammar, trees, units, values])
def test_examples_in_the_documentation(lesson):
    outcome = doctest.testmod(lesson)
    assert outcome.attempted and outcome.failed == 0
