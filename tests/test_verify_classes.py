"""The kinds of answers that public reports, and reading the rules with bad intent, found wrong: each with both verdicts."""

import re
from pathlib import Path

import pytest

from verify import is_equivalent, reward

EQUAL = r"""
infinity        | \infty : +\infty | -\infty : -\infty
variables       | \frac32 mg : 1.5mg | 3km : 3mk | 2L+2W : 2(L+W) | 2abcd+abcd : 3abcd | wxyz : zyxw | mgh : hgm | \frac{h(a+b)}{2} : \frac12(a+b)h
units           | 5 \text{ cm}^2 : 5 cm^2 | 5 \text{ square cm} : 5 \text{ cm}^2 | 12 : 12 apples | 82\mathrm{~m} : 82 | 9.8\ \mathrm{m/s^2} : 9.8 | 850 : 850 g | 20 : €20 | 42 : 42元
conversion      | 60 \text{ minutes} : 1 \text{ hour} | 1 \text{ m}^2 : 10000 \text{ cm}^2 | 36 \text{ km/h} : 10 \text{ m/s} | 30 mph : 30 \text{ miles per hour} | \$1.50 : 150 cents | 2 \text{ feet} : 24 \text{ inches} | 90^\circ : \frac{\pi}{2} \text{ radians}
number words    | 3 \text{ million} : 3,000,000 | 36 : 3 dozen | 2.5 \text{ million} : 2500000 | \text{seven} : 7 | 4 times 200 : 800
thousands       | 12,000x : 12000x | 110,115,120 : 110, 115, 120 | (2,251,252) : (2, 251, 252) | 2,500\pi : 2500\pi | x = 1 234 : x = 1234 | 1'234'567 : 1234567
e               | e^2-2e+1 : (e-1)^2 | 2e-1 : -1+2e | 4.8e7 : 48000000 | 1e-3 : 0.001 | 4E-2 : 0.04
cases           | \sqrt{(x-2)^2} : |x-2| | |3x-6| : 3|x-2| | \max(a,b)+\min(a,b) : a+b | \lfloor x+3 \rfloor : \lfloor x \rfloor+3
repeating       | 1.(45) : \frac{16}{11} | 0.1(6) : \frac16 | 0.\bar3 : 1/3 | 0.\dot{1}\dot{4} : \frac{14}{99} | 2.\overline{142857} : \frac{15}{7}
ellipsis        | 2,4,6,\ldots : 2, 4, 6, \dots | \{1,2,\ldots,10\} : \{1, 2, \dots, 10\}
degrees         | \cos(30^\circ+30^\circ) : \frac12 | \sin(90^\circ-x) : \cos x | \frac{45^\circ}{2} : 22.5^\circ | \sin^{2}{30^\circ} : \frac14
exact           | 7^{2023} \bmod 100 : 43 | 2^{2024}-1 : (2^{1012}-1)(2^{1012}+1) | \frac{4^{1000}-1}{3} : \frac{2^{2000}-1}{3} | \binom{100}{50} : \frac{100!}{50!\,50!} | 1-\frac{1}{2^{400}} : \frac{2^{400}-1}{2^{400}}
factorials      | 5!! : 15 | 8!! : 384 | \frac{10!}{3!7!} : 120 | \frac{(2n)!}{2^n n!} : (2n-1)!! | \frac{n!}{(n-2)!} : n(n-1) | 2^3\,3^2 : 72
choose          | {7 \choose 2} : 21 | C(7,2) : 21 | C_7^2 : 21 | ^7C_2 : 21 | {1 \over 2} : 0.5
matrices        | -2 : \begin{vmatrix}1&2\\3&4\end{vmatrix} | \frac12\begin{pmatrix}2&4\\6&8\end{pmatrix} : \begin{pmatrix}1&2\\3&4\end{pmatrix} | \left(\begin{array}{c}1\\2\end{array}\right) : \begin{pmatrix}1\\2\end{pmatrix}
names           | x=1, y=2, z=3 : 1,2,3 | y=2, x=1 : x=1, y=2 | x=1,y=2 \text{ or } x=3,y=4 : (1,2),(3,4) | \begin{cases} x=1\\ y=2 \end{cases} : (1,2) | \text{The area is }10 : 10
chains          | 30+12=42 : 42 | y = 3\cdot 4 = 12 : 12 | 3\times4=12\text{ cm} : 12
percent         | \frac34 : 75\% | 5\% : 0.05 | 0.0075 : 0.75\% | 120\% : 1.2
words           | Yes : yes | NO : No | \text{Alice} : alice | \text{no solution} : No solutions | \text{does not exist} : DNE | \text{A, B} : B, A
choices         | \textbf{(C) } 42 : C | \textbf{(C) } 42 : 42 | A : A. 7 | B : \text{Option B} | (A) 7 : 7
real domain     | \sqrt{x^3} : x\sqrt x | \ln x^3 : 3\ln x | \sqrt{x}\sqrt{y} : \sqrt{xy} | \ln(x^2) : 2\ln|x| | \sqrt{x}\sqrt[3]{x} : x^{5/6}
sets            | (1,2] \cup (2,3) : (1,3) | x \ne 2 : (-\infty,2)\cup(2,\infty) | \{x \mid x > 3\} : (3,\infty) | \mathbb{R}\setminus\{0\} : x \ne 0 | [0,3]\cap[1,5] : [1,3] | x>1, x<2 : (1,2) | ]0,1] : (0,1] | \text{all real numbers} : (-\infty,\infty) | \{2,3,3\} : \{3,2\} | (\pm 3,0) : (3,0),(-3,0) | 1\le x\le 1 : x=1
parameters      | x^3+C : x^3+c | 2\pi k, k\in\mathbb{Z} : 2\pi n \ (n \in \mathbb{Z})
unicode         | ½ : 0.5 | 1½ : 1.5 | x⁻¹ : \frac1x | （１，２） : (1,2) | α+β : \beta+\alpha | ∛8 : 2 | x⩾5 : x\ge 5
commands        | \textcolor{blue}{5x+3} : 5x+3 | 5x&+3 : 5x+3 | \nicefrac{3}{7} : \frac37 | 5x \quad + \quad 3 : 5x+3 | \operatorname{lcm}(4,6) : 12 | \max\{3,8\} : 8 | \sec^{-1} 2 : \frac{\pi}{3}
congruences     | n \equiv 3 \pmod 7 : n\equiv 3 (\bmod 7) | x \equiv 3 (mod 7) : x\equiv 3\pmod{7}
sentences       | The only possible value is $28$. : 28 | The answer is $\frac12$. : 0.5
"""
DIFFERENT = r"""
infinity        | 0 : \infty-\infty | 5 : \infty-\infty+5 | 1 : \frac{\infty}{\infty} | 0 : 0\cdot\infty | 1 : 1^{\infty} | (0,1) : (\infty-\infty,1) | \infty : 2\infty | \infty : 1/0
variables       | 2L+2W : 2L+2 | \frac{3}{2}mg : \frac32 | 4W^2-9 : 4W-9 | 2mg : 2 | 5Pa : 5 | x^2kg : x^2 | 3cm : 3kg | MAKE : KAME
units           | 5 \text{ hours} : 5 \text{ minutes} | 5 \text{ cm}^2 : 5 \text{ cm}^3 | 20^\circ\text{C} : 20^\circ\text{F} | 5 \text{ kg} : 5 \text{ lb} | 12 apples : 12 oranges | 5 cents : 5 dollars | 60^\circ : 60 \text{ radians}
number words    | 3 : 3 million | 3 : 3 dozen | 2 : 2 thirds | 5 : 5 \text{ squared} | 5 : 5 and a half | 3 : 3 halves | 42 : 42 hundred | 3500 : 3 plus 500 | 7100 : 7 over 100 | 4200 : 4 times 200
other words     | 20\% increase : 20\% decrease | \$5 profit : \$5 loss | 7 : 7 north | 7 north : 7 south | 5 : 5 \text{ below zero} | 10\text{ years ago} : 10\text{ years later} | 0 \text{ left} : 0 \text{ right}
times           | 7 \text{ p.m.} : 7 \text{ a.m.} | 7 : 7 \text{ p.m.} | 6:00 \text{ p.m.} : 6:00 \text{ a.m.} | 5 May : 5 June
thousands       | 10,080 : (10,80) | 10,080 : 10,80 | 12,000x : 12,000 | (1,0) : 1,000 | 1,234 : (1,234) | 1,234 : \{1,234\} | 1,500-500 : 1,0 | 3,000^2 : 3,000 | 21,000 : 21,00
e               | 4e-2 : 0.04 | 3e+2 : 300
cases           | |x-10| : 10-x | |x+50| : x+50 | |x-100| : 100-x | \max(x,9) : 9 | \max(x,-20) : x | \sqrt{(x-30)^2} : x-30 | |x^2-50| : 50-x^2 | |2x-19| : 19-2x | |x-15|+|x-25| : 10 | \frac{|x-9|}{x-9} : -1
steps           | \lfloor 7x \rfloor : 7x | \lceil 13x \rceil : 13x | \lfloor x/30 \rfloor : \lfloor x/31 \rfloor | x \bmod 7 : x | n \bmod 40 : n | \binom{n}{20} : 0 | \binom{n}{50} : 0 | \sin(\pi x) : 0 | x^2 : x^2+\sin(\pi x)\cdot 0! | \lfloor\frac{n}{15}\rfloor : \lfloor\frac{n}{16}\rfloor+0\cdot n!
repeating       | 0 : 0.(3) | 6 : 1.(6) | 0 : 0.\bar{3} | 0 : 0.\dot{3} | \frac13 : 0.\overline{03}
ellipsis        | 2,4,6,\ldots : 2,4,6 | 3.14\ldots : 3.14 | 0.7... : 0.7 | 1+2+\cdots+100 : 103 | 2+4+\cdots : 6+\cdots
degrees         | \sin(90^\circ-x) : \sin(90-x) | \sin(30^\circ+60^\circ) : \sin 90
exact           | 7^{2023} \bmod 100 : 44 | 2^{2024}-1 : 2^{2024} | 5^{1000}+1 : 5^{1000} | 720 : 3!! | 100! : 99!
bases           | 42 : 42_7 | 0 : 0xFF | 0 : 0b101 | 52_8 : 52_7
matrices        | \begin{vmatrix}1&2\\3&4\end{vmatrix} : \begin{pmatrix}1&2\\3&4\end{pmatrix} | \{\emptyset\} : \emptyset | \overrightarrow{AB} : \overrightarrow{BA} | 1 : \lim_{x\to0^-} \frac{|x|}{x} | 1 : \lim_{x\to0} \frac{|x|}{x}
names           | x=1, y=2, z=3 : 3,2,1 | x=1 \text{ and } y=2 : 2 \text{ and } 1 | 7 : |x|=7 | 7 : x=1 \quad y=7 | 42 : x=41=42 | 42 : 42=41 | 13 : 3\cdot4=13 | 7 : 2x=7 | a=2,b=3 : a=3,b=2
and, or         | x>1 \text{ and } x<5 : x>1 \text{ or } x<5 | 0<x<1 : 0, 1 | x\in(0,1) : 0, 1 | x>3 : y>3 | (0,1)\cup(1,2) : (0,2) | A\cap B : A\cup B | x\notin\{1\} : x\in\{1\} | x \not> 3 : x > 3
percent         | \frac34 : 0.75\% | 5 : 5\% | 1 : 1\% | \sqrt2 : \sqrt2\% | 35\% : 0.35\%
choices         | \textbf{(C) } 42 : D | (A) 7 : (B) 7 | B : A. 7
real domain     | \sqrt{a^2b} : a\sqrt b | \sqrt{x^2} : x | \sqrt{x} : x^{1/3}
parameters      | x^3+C : x^3 | x^3+C : x^2+c | 2\pi k, k\in\mathbb{Z} : \pi k, k\in\mathbb{Z} | \sin x + C : \cos x + C
congruences     | x \equiv 2 \pmod 5 : x \equiv 2 \pmod 6 | x\equiv 2 \pmod 5 : x = 2 | 3 \pmod 7 : 7
sentences       | There are 4 values of $P$. : There are 5 values of $P$. | It holds for all $n$. : n | It holds for $n=3$ but not for $n=4$. : 4 | The value of $n$ is not $3$. : 3
"""


def pairs(table: str):
    for line in table.strip().splitlines():
        kind, *cases = line.split(" | ")
        for case in cases:
            yield pytest.param(*case.strip().split(" : "), id=f"{kind.strip()}: {case.strip()}")


@pytest.mark.parametrize("gold, prediction", list(pairs(EQUAL)))
def test_equal(gold, prediction):
    assert is_equivalent(prediction, gold) and is_equivalent(gold, prediction)


@pytest.mark.parametrize("gold, prediction", list(pairs(DIFFERENT)))
def test_different(gold, prediction):
    assert not is_equivalent(prediction, gold)


def test_what_the_question_asks_for_may_be_left_off_but_not_added():
    for gold, bare in ((r"28\%", "28"), ("52_8", "52")):
        assert is_equivalent(bare, gold) and not is_equivalent(gold, bare)


PAGE = Path(__file__).resolve().parent.parent / "docs" / "VERIFIER.md"


def promises():
    """The examples of docs/VERIFIER.md: `a` and `b`, or `a` for the gold answer `b`."""
    for row in PAGE.read_text(encoding="utf-8").splitlines():
        for cell, verdict in zip(re.split(r"(?<!\\)\|", row)[2:4], (True, False)):
            for left, word, right in re.findall(
                r"`([^`]+)` (and|for the gold answer) `([^`]+)`", cell.replace("\\|", "|")
            ):
                yield pytest.param(left, right, verdict, word == "and", id=f"{left} {word} {right}")


@pytest.mark.parametrize("left, right, verdict, both_ways", list(promises()))
def test_the_page_of_rules_tells_the_truth(left, right, verdict, both_ways):
    assert is_equivalent(left, right) is verdict
    assert not both_ways or is_equivalent(right, left) is verdict


REWARDED = [
    ("42", r"<think>maybe \boxed{40}</think> The answer is 42."), ("42", "<think>x</think>\n\n**42**"), ("42", r"maybe \boxed{40}</think> $42$"),
    ("42", "<answer>42</answer>"), ("42", "<answer>The answer is 42.</answer>"), ("42", '{"answer": 42}'), ("42", "### Answer\n$$42$$"),
    ("42", "**Final Answer**\n42"), ("42", "#### Answer: 42"), ("42", "Therefore 42."), ("42", "=> 42"), ("42", "Total: 42"), ("42", "__42__"),
    ("42", "Hence, 42 is the final answer."), ("42", "Therefore $x = 42$."), ("84", "84, as expected."), ("9", "Answer $9$"),
    ("42", "The answer is therefore 42."), ("42", "答案是42。"), ("42", "答案：42"), ("C", "故选：C"), ("42", "Ответ: 42"), ("42", "It is $3 + 39 = 42$."),
    ("12", "A costs $5 and B costs $7. Total cost = $5 + $7 = $12"), ("12", "She has $20 and spends $8, so $12 remains."),
    ("70000", "So he made $200,000 - $130,000 = $70,000"), ("1450", "So altogether it costs $1,450."), ("3, 5", "The solutions are $x=3$ and $x=5$."),
    ("C", r"\boxed{\text{(C)}\ 42}"), ("C", r"\boxed{C. 42}"), ("42", r"\boxed{42}\%"), ("x=1,y=2", r"$x=\boxed{1}$, $y=\boxed{2}$"),
]  # fmt: skip
REFUSED = [
    ("40", r"<think>maybe \boxed{40}</think> I could not solve it."), ("40", r"<think>maybe \boxed{40}</think> The answer is 42."),
    ("42", "The answer cannot be 42."), ("42", "The answer is not 42."), ("42", "The answer isn't 42"), ("42", "The answer is 42 million."),
    ("42", "The answer is 42 hundred."), ("42", "The answer is at least 42."), ("42", "The answer is between 41 and 43."), ("42", "42? No, 43."),
    ("42", r"The answer is $42$ or $43$."), ("7", r"The remainder is that of $7^{2023} \bmod 100$"), ("5", "It costs $5, and three are $15."),
]  # fmt: skip


@pytest.mark.parametrize("gold, text", REWARDED)
def test_the_answer_is_found(gold, text):
    assert reward(text, gold) == 1.0


@pytest.mark.parametrize("gold, text", REFUSED)
def test_what_is_no_answer_earns_nothing(gold, text):
    assert reward(text, gold) == 0.0
