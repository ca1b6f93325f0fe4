r"""Is this answer right? The verifier behind every reward: extract -> normalise -> parse -> compare.

RL pays whatever the verifier pays, so a wrong verdict is a wrong gradient. Four stages, each usable alone:

1. `extract_answer` finds the final answer in a model's text: the last \boxed, else "####", else "the answer is ...".
2. `normalise` rewrites the many spellings of one thing to one: \dfrac to \frac, \geq to >=; it drops units.
3. `parse` reads the result with a small precedence parser of our own into nested tuples such as ("+", one, x). Text is
   never evaluated and never reaches sympy. On the labelled pairs of verify_bench.py this is some seventy times faster
   than Math-Verify with latex2sympy2_extended, and more often right; and only an own grammar can promise its limits.
4. `compare` decides by shape (list, interval, equation, matrix, ...), then by value: 150 digits at fixed points, of
   which 110 have to agree. Only integrals, limits and infinite sums go to sympy, in a worker process that is killed
   when its time is up. There are no signals, so all of it works in any thread and process.

The rules, where judgement is needed:
- A decimal equals an exact value if it is that value (0.5 = 1/2) or, where there is no finite decimal, that value
  rounded or cut to six digits or more (1.41421 = \sqrt{2}, but 0.33 is not 1/3).
- A percent sign may be left off or carried out: 28\% equals 28 and 0.28. Nothing else forgives a factor of 100.
- Units, money and degree signs may be left off and are not converted. So may a base: 52_8 equals 52, but not 42.
- Lists without brackets and sets have no order, and count repetitions. (a, b), [a, b] and matrices are ordered; a list
  without brackets equals a tuple in the same order. Brackets count: (0, 1] is not [0, 1]. 1,234 is a number.
- "x = 5" equals "5" where a mere name stands on the left. Equations are equal up to a factor, inequalities up to a
  positive one, and x > 5 equals (5, \infty).
- Expressions are equal if they agree wherever both are real; n! and (-1)^n are compared at whole numbers.
- Words are compared without case, symbols with it. Nothing equals an answer that is missing, empty or holds a NUL.
- What cannot be decided within the limits is not equal. The relation is symmetric.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import operator
import os
import random
import re
import selectors
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import lru_cache

MAX_LENGTH, MAX_DEPTH, MAX_DIGITS = 2000, 40, 100  # of what is parsed: characters, nested brackets, digits of a number
IN_PROCESS_SECONDS, VERDICT_SECONDS = 0.3, 0.75  # for the stages that run here, and for all with the worker's
BATCH_SECONDS = 0.5  # after which the rest of a large batch goes to processes of its own
WORKER_BYTES = 512 * 2**20


class Undecided(ValueError):
    """Outside of the grammar, over a limit, or without a value that can be found here."""


class NeedsSympy(Undecided):
    """The value needs an integral, a limit or a long sum."""


# 1. Extract: the final answer in a model's text.
BRACE, BARE_TOKEN = re.compile(r"(?s)\\.|[{}]"), re.compile(r"\s*([-\w.]*\w)")
BETWEEN = re.compile(r"(?:\\text\s*\{\s*(?:and|or)\s*\}|\\q?quad|\\[()\[\],; ]|[\s$,;]|and|or)*")
MATH = re.compile(r"""(?sx)\$\$[^$]+\$\$ | (?<!\\)\$(?:[^$\\]|\\.)+\$
    | \\\((?:[^\\]|\\[^()])+\\\) | \\\[(?:[^\\]|\\[^\[\]])+\\\]""")  # fmt: skip
CUE = re.compile(r"(?i)\banswers?\b[\s*]*(?:is|are|be|:|=)|\banswer\b[^.\n$]{0,80}?\bis\b")
COPULA = re.compile(r"(?i)\b(?:is|are|be|equals?|equal to|get|gives?|obtain|have)\b|[=:]")
SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n|<\||I hope")
MARKUP = " \t\r\n*:=_`"


def extract_answer(text: str) -> str | None:
    r"""The final answer in a model's output, None where there is none. The last \boxed counts, even an empty one.

    >>> extract_answer(r"First \boxed{3}. No: $\boxed{\frac{1}{2}}$."), extract_answer(r"It is 5. \boxed{}")
    ('\\frac{1}{2}', None)
    >>> extract_answer("so 6 * 7 = 42 eggs.\n#### 42"), extract_answer("The answer is $x^2$. I hope it is correct.")
    ('42', '$x^2$')
    """
    if not isinstance(text, str):
        return None
    answer = last_boxes(text)
    if answer is None:
        answer = unboxed(text[-20_000:])  # an answer stands at the end, and a bound keeps long texts cheap
    return answer.strip() or None


def last_boxes(text: str) -> str | None:
    r"""What the last \boxed holds; None: there is no box. Boxes with only "and" or a comma between are one answer."""
    answers, end = [], len(text)
    while len(answers) < 20 and (start := max(text.rfind("\\boxed", 0, end), text.rfind("\\fbox", 0, end))) >= 0:
        content, stop = braced(text, start + (6 if text.startswith("\\boxed", start) else 5), end)
        gap = text[stop:end] if end - stop < 80 else "too far apart"
        if answers and not (content and re.search("[,;]|and|or|quad", gap) and BETWEEN.fullmatch(gap)):
            break
        answers.insert(0, content)
        end = start
    return ", ".join(answers) if answers else None


def braced(text: str, start: int, end: int) -> tuple[str, int]:
    """The content of the brace group (to the line's last brace, if one is missing) or the token at start, and its end."""
    token = BARE_TOKEN.match(text, start, end)
    if token:
        return token[1], token.end()
    depth, end = 0, min(end, start + 10 * MAX_LENGTH)
    for match in BRACE.finditer(text, start, end):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[start : match.end()].strip()[1:-1], match.end()
    line_end = text.find("\n", start, end)
    last = text.rfind("}", start, line_end if line_end >= 0 else end) + 1 or start
    return text[start:last].strip()[1:-1], last


def unboxed(text: str) -> str:
    """The answer after "####" or "the answer is", else the last formula, else "... is 5", else the text if short."""
    if "####" in text:
        return text.rpartition("####")[2].strip(MARKUP).partition("\n")[0].strip(MARKUP)
    cues = list(CUE.finditer(text))
    text = text[cues[-1].end() :][:MAX_LENGTH].lstrip(MARKUP) if cues else text
    formulas, end = list(MATH.finditer(text)), 0
    if cues:
        for formula in formulas:  # those at the start, as far as only "and" or a comma is between them
            end = formula.end() if BETWEEN.fullmatch(text, end, formula.start()) else end
        text = text[:end] or SENTENCE_END.split(text)[0].strip(MARKUP)
    if end or not is_prose(text):
        return text if len(text) < MAX_LENGTH else ""
    if formulas and not cues:
        return formulas[-1][0]
    text = text.strip(MARKUP).rpartition("\n")[2].rstrip(".*` \r")
    said = list(COPULA.finditer(text))
    return text[said[-1].end() :].strip(MARKUP) if said else text if cues else ""


def is_prose(text: str) -> bool:
    """True for running words, outside of formulas, rather than an answer with its unit."""
    found = re.findall(r"(?<![\\A-Za-z{])[A-Za-z]{2,}", MATH.sub(" ", text[-MAX_LENGTH:]))
    return sum(word.lower() not in ("and", "or", "percent") for word in found) >= 3


def bare(text: str) -> str:
    """An answer without the box or the sentence around it; "" for what is no answer."""
    if not isinstance(text, str) or "\0" in text:
        return ""
    if "\\boxed" in text or "\\fbox" in text:
        text = last_boxes(text)
    elif ("$" in text or "\\(" in text) and is_prose(text):
        text = unboxed(text)
    return text.strip()


# 2. Normalise: one spelling for each thing that has many.
TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}
FUNCTIONS = {name: name for name in TRIGONOMETRIC} | {  # by the names of mpmath, which evaluates them
    "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "exp": "exp", "log": "log", "floor": "floor", "ceil": "ceil", "max": "max",
    "min": "min", "factorial": "factorial", "arcsin": "asin", "asin": "asin", "arccos": "acos", "acos": "acos", "arctan": "atan", "atan": "atan", "ln": "log",
    "lg": "log10", "abs": "fabs", "binom": "binomial", "dbinom": "binomial", "tbinom": "binomial", "sqrt": "sqrt",
    "binomial": "binomial", "frac": "frac",
}  # fmt: skip
GREEK = {"pi", "alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "sigma", "tau", "phi", "omega"}
INFINITIES = dict.fromkeys(("oo", "inf", "infty", "infinity"), "infinity")
NAMES = INFINITIES | {name: name for name in GREEK}
NO_UNIT = "or|and|not|than|least|most|more|less|except|if|when|where|even|odd|for|any|all|no|to"  # changes the meaning
UNIT = rf"""(?!(?:{"|".join([*FUNCTIONS, *NAMES])})[xyzt]?\b|(?:{NO_UNIT})\b)(?:(?<=\s)[A-Za-z]{{4,}}|[ckm]m|[km]g|lb|oz|ft|in|yd|mi|hr|min|sec
    |m[lpk][ghL]?|kph|sq|cu|deg|day|men|mol|[kM]?(?:J|W|Pa|Hz|eV))\b(?:\s(?!(?:{NO_UNIT})\b)[A-Za-z]{{2,}})*(?:/[A-Za-z]+)?"""
CHARACTERS = str.maketrans({
    "−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "∞": "\\infty ", "π": "\\pi ", "√": "\\sqrt ",
    "≤": "<=", "≥": ">=", "≠": "!=", "∪": "\\cup ", "∈": "\\in ", "±": "\\pm ", "°": "\\degree ", "²": "^2", "³": "^3",
    "≈": "\\approx ", "θ": "\\theta ", "ℝ": "\\mathbb{R}", "′": "'", "，": ",", "％": "%", "…": "...", "\xa0": " ",
})  # fmt: skip


def mixed_number(match: re.Match) -> str:
    r"""1\frac{4}{5} and 1 4/5 are sums; 2\frac{5}{3} stays a product."""
    whole, top, bottom = map(int, match.groups())
    return f"({whole}+{top}/{bottom})" if top < bottom else match[0]


def repeating_decimal(match: re.Match) -> str:
    r"""The fraction that 0.1\overline{6} or 0.333... is."""
    whole, fixed, cycle = match.groups()
    return f"({int(whole + fixed + cycle) - int('0' + whole + fixed)}/{'9' * len(cycle) + '0' * len(fixed)})"


COMMANDS = {  # that mean the same as a character; END is where a command's name ends
    "leq?|leqslant|leqq": "<=", "geq?|geqslant|geqq": ">=", r"neq?|not\s*=": "!=", "lt": "<", "gt": ">", "cdot|times|ast": "*",
    "div": "/", "[lr]?vert|mid": "|", "ldots|cdots|dots": "...", "q?quad": " ", "approx": "", "%": "%", "varnothing": r"\\emptyset",
    "left|right|[bB]igg?[lr]?|displaystyle|(?:no)?limits": "", "[dtc]frac": r"\\frac",
}  # fmt: skip
END, WORDS = r"(?![A-Za-z])", r"\\(?:text[a-z]*|mbox|mathrm|mathbf|hbox)\s*\{"
WORDS_OF = re.compile(WORDS + r"([^{}]*)\}")
SPELLINGS = [(re.compile(pattern), replacement) for pattern, replacement in (
    (r"\\\\(?=[A-Za-z]{2})", r"\\"),  # commands that were escaped twice
    (r"\\\$|\$|m?\\angle|(?<!\\)\\[()\[\]]|(?<=\S)\s*\\approx.*|\\(?:left|right)\.", ""),
    (r",?\\!\s*|\{,\s*\}", lambda match: "," if "," in match[0] else ""),  # the commas of 27,\!000 and 27{,}000
    (r"(?<!\\)\\[,;:> ]|\\hspace\{[^{}]*\}|~", " "),
    (rf"{WORDS}\s*(?:and|or)\s*\}}|(?<![A-Za-z\\{{])(?:and|or){END}", " , "), (r"(?:,\s*){2,}", ", "),
    (rf"{WORDS}\s*\\?%\s*\}}|\b(?:percent(?:age)?|pct)\b", "%"),
    *((rf"\\(?:{name}){'' if name in ('%', 'q?quad') else END}", character) for name, character in COMMANDS.items()),
    (r"\^\s*\{?\s*\\circ\s*\}?|\^?\s*\\degrees?(?![A-Za-z])", r"\\degree "), (r"\^\s*(?:\\prime|\*|\{\s*(?:\\prime|\*)\s*\})", "'"),
    (r"\\operatorname\*?\s*\{\s*([A-Za-z]+)\s*\}", r"\\\1 "), (r"\\mathrm\s*\{\s*([eid])\s*\}", r"\1 "),
    (r"\\(?:mathbf|mathit|mathsf|boldsymbol)\s*\{\s*(\\?[A-Za-z]+)\s*\}", r"\1 "),
    (r"_\{\s*\\\w+\s*\{([^{}]*)\}\s*\}", r"_{\1}"), (r"\\\\\s*(?=\\end)", ""),
    (rf"([\w)}}\]%])\s*{WORDS}(?![^{{}}]*(?:\d|\b(?:{NO_UNIT})\b))[^{{}}]*\}}(?:\^\{{?\d\}}?)?", r"\1 "),  # units
    (rf"(?x)(?<=[\d}}%)])\s*{UNIT}(?:\^\{{?\d\}}?)?", " "),
    (r"\\frac\s*(\d)\s*(?=[\d\\{A-Za-z])", r"\\frac{\1}"), (r"(\\frac\{\d+\})\s*(\d)", r"\1{\2}"),
    (r"(?<![\d.^_}])(\d+)\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}", mixed_number),
    (r"(?<![\d.^])(\d+) +(\d+)/(\d+)(?![\d.])", mixed_number),
    (r"(?<![\d.])(\d{0,30})\.(\d{0,30})\\overline\s*\{(\d{1,30})\}", repeating_decimal),
    (r"(?<![\d.])(\d{0,30})\.(\d{0,6}?)(\d{1,6}?)\3{2,30}\.\.\.", repeating_decimal),
)]  # fmt: skip
PLAIN, SPACED_NUMBER = re.compile(r"(?!.*\.\.)(?=.*\d)[\d+\-*/().]*"), re.compile(r"-?\d{1,3}( \d{3})+(\.\d+)?")


def normalise(text: str) -> str:
    r"""One spelling for each thing that has many; what is left is for the parser.

    >>> normalise(r"$\dfrac{1}{2}\times 27{,}000$ cm"), normalise(r"3\frac12"), normalise("x ≥ 5.")
    ('\\frac{1}{2}* 27,000', '(3+1/2)', 'x >= 5')
    """
    if PLAIN.fullmatch(text):
        return text
    text = text.translate(CHARACTERS)
    for pattern, replacement in SPELLINGS:
        text = pattern.sub(replacement, text)
    text = re.sub(r"\s+", " ", text).strip().rstrip(".,;").strip(" ,;")
    return text.replace(" ", "") if SPACED_NUMBER.fullmatch(text) else text


def words(text: str) -> str:
    r"""An answer in words: without markup and space and, inside \text or from four letters on, without case.

    >>> words(r"\text{ Tuesday}"), words(r"\textbf{(C)}"), words("x")
    ('tuesday', 'C', 'x')
    """
    found = WORDS_OF.sub(r"\1", WORDS_OF.sub(r"\1", text.replace("$", "")))
    found = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", found).rstrip(".")
    found = found[1:-1] if re.fullmatch(r"\([A-Za-z]\)", found) else found
    long = len(found) > (1 if "\\text" in text else 3)
    return found.casefold() if long and re.fullmatch(r"[A-Za-z'\-.,]+", found) else found


# 3. Parse. A tree is ("number", Fraction), ("decimal", Fraction, digits), ("symbol", name), ("based", digits, base) or
# (head, tree, ...) with the head "+", "*", "/", "^", a function, a relation, "," list, "{}" set, "(]" interval, "row", ...
MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
RELATIONS = ["=", "!=", *MIRRORED, "\\in", "\\equiv", "\\to", "\\rightarrow", "\\sim", "\\subset", "\\iff"]
RELATION, SUM, PRODUCT, POWER, POSTFIX = 3, 6, 7, 9, 10
BINDING = {token: binding for binding, tokens in enumerate((  # what stands between operands, from loose to tight
    [], ["\\\\", ";"], [",", "&"], RELATIONS, ["\\cup", "\\cap", "\\setminus"], [":"], ["+", "-", "\\pm", "\\mp"],
    ["*", "/", "\\bmod", "\\mod", "\\pmod"], [], ["^", "**"], ["!", "%", "\\degree"])) for token in tokens}  # fmt: skip
HEADS = {";": ",", "&": "row", "\\\\": "rows", "**": "^", "!": "factorial", "%": "percent", "\\degree": "degree",
         "\\mod": "\\bmod", "\\pmod": "\\bmod"}  # fmt: skip
CLOSING = {"(": ")]", "[": "])", "{": "}", "|": "|", "\\{": ["\\}"], "\\lfloor": ["\\rfloor"], "\\lceil": ["\\rceil"],
           "begin": ["end"]}  # fmt: skip
CLOSERS = {token for tokens in CLOSING.values() for token in tokens if token != "|"}
CALCULUS = {"\\sum": "sum", "\\prod": "prod", "\\int": "integral", "\\lim": "limit"}
TOKEN = re.compile(r"""\s*(?:(?P<number>\d+_(?:\d+|\{\d+\})|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
    |\\(?P<edge>begin|end)\s*\{[pbvB]?(?:small)?matrix\*?\}|\\(?:text[a-z]*|mbox|mathrm|hbox)\s*\{(?P<text>[^{}]*)\}
    |(?P<name>(?:\\(?:overline|bar|vec|hat|mathbb|mathcal)\s*(?:\{[^{}]*\}|\w)|\\?[A-Za-z]+))
    |(?P<operator>\\[{}\\]|\*\*|[<>!]=|[-+*/^_=<>(){}\[\]|,;:!%&]))""", re.VERBOSE)  # fmt: skip
SUBSCRIPT = re.compile(r"(?: ?_ ?(?:\{[^{}]*\}|\w))?'*(?:(?<=[fghFGH'])\([^()]*\)|(?<![ei])\((?:[A-Za-z]|\d+)\))?")
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
WITHOUT_SUFFIX = {*BINDING, *CALCULUS, *CLOSING, *CLOSERS, "\\pi", *FUNCTIONS, *(f"\\{name}" for name in FUNCTIONS)}
INFINITY = ("symbol", "infinity")


def tokenise(text: str) -> list[str]:
    """Numbers, operators, and names with their subscripts and arguments: x_1, f(x). Letters in a row are a product."""
    tokens, position = [], 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if not match:
            raise Undecided("an unknown character")
        kind, token, position = match.lastgroup, match[match.lastgroup], match.end()
        if kind == "text":
            token = words("\\text" + token)
        elif kind == "name" and token not in WITHOUT_SUFFIX:
            if token[0] != "\\" and token not in NAMES and len(token) < 4:
                tokens, token = tokens + list(token[:-1]), token[-1]
            suffix = SUBSCRIPT.match(text, position)
            token, position = token + re.sub(r"[{} ]", "", suffix[0]), suffix.end()
        tokens.append(token or "no words")
    return tokens


@lru_cache(maxsize=4096)
def parse(text: str, thousands: bool = True) -> tuple:
    """The tree of a normalised answer, with the operands of sums and products in one order. Raises Undecided.

    >>> parse("x+1") == parse("1+x") == ("+", ("number", Fraction(1)), ("symbol", "x"))
    True
    """
    if len(text) > MAX_LENGTH:
        raise Undecided("too long")
    for found in list(THOUSANDS.finditer(text))[::-1] if thousands else []:
        if not re.search(r"[(\[{][^)\]}]*$", text[: found.start()]):  # inside brackets, (2,251,252) is a triple
            text = text[: found.start()] + found[0].replace(",", "") + text[found.end() :]
    parser = Parser([*tokenise(text), ""])
    tree = parser.expression()
    if parser.next:
        raise Undecided(f"unexpected {parser.next}")
    return tree


def combined(head: str, left: tuple, right: tuple) -> tuple:
    """A sum, product or quotient: of small numbers the number, otherwise flat and in one order."""
    if left[0] == right[0] == "number" and abs(left[1]) + abs(right[1]) < 10**9 and (head != "/" or right[1]):
        return ("number", {"+": operator.add, "*": operator.mul, "/": operator.truediv}[head](left[1], right[1]))
    if head == "+" and left[0] == right[0] in ("rows", "row") and len(left) == len(right):  # matrices
        return (left[0], *(combined(head, *pair) for pair in zip(left[1:], right[1:])))
    if head == "/":
        return (head, left, right)
    parts = (part for side in (left, right) for part in (side[1:] if side[0] == head else [side]))
    return (head, *sorted(parts, key=repr))


def negative(node: tuple) -> tuple:
    minus_one = ("number", Fraction(-1))
    return (node[0], -node[1], *node[2:]) if node[0] in ("number", "decimal") else combined("*", minus_one, node)


class Parser:
    """Precedence climbing: `expression(floor)` reads on for as long as the tokens bind tighter than the floor."""

    def __init__(self, tokens: list[str]):
        self.tokens, self.at, self.depth, self.bars = tokens, 0, 0, 0

    next = property(lambda self: self.tokens[self.at])

    def take(self, wanted="") -> str:
        if not self.next or (wanted and self.next not in wanted):
            raise Undecided(f"{self.next or 'the end'} instead of {wanted or 'an operand'}")
        self.at += 1
        return self.tokens[self.at - 1]

    def binding(self) -> int:
        """How tight the next token binds; two operands side by side are a product, but two numbers are nothing."""
        token = self.next
        if token in BINDING or token in CLOSERS or token in ("", "_"):
            return BINDING.get(token, 0)
        apart = token[0] not in ".0123456789" or self.tokens[self.at - 1] in (")", "]", "}")
        return PRODUCT if apart and not (token == "|" and self.bars) else 0

    def expression(self, floor: int = 0) -> tuple:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Undecided("too deep")
        left = self.operand()
        while (binding := self.binding()) > floor:
            left = self.joined(left, binding)
        self.depth -= 1
        return left

    def joined(self, left: tuple, binding: int) -> tuple:
        """The tree of the left operand, the next operator and its right operands."""
        token = self.take() if self.next in BINDING else "*"
        head = "+" if binding == SUM else HEADS.get(token, token)
        if binding == POSTFIX:
            return (head, left)
        right = self.expression(POWER - 1 if binding == POWER else binding)  # powers are read from the right
        if binding >= SUM:
            right = negative(right) if token == "-" else (token, right) if token in ("\\pm", "\\mp") else right
            return combined(head, left, right) if head in ("+", "*", "/") else (head, left, right)
        tokens, parts = [token], [left, right]
        while self.binding() == binding:
            tokens.append(self.take())
            parts.append(self.expression(binding))
        if binding == RELATION and set(tokens) <= {">", ">="}:  # x >= 5 is read as 5 <= x
            tokens, parts = [MIRRORED[token] for token in tokens[::-1]], parts[::-1]
        if binding != RELATION and len(set(tokens)) > 1:
            raise Undecided("operators that need brackets")
        return (" ".join(tokens) if binding == RELATION else head, *parts)

    def operand(self) -> tuple:
        token = self.take()
        name = token.lstrip("\\")
        if token[0] in ".0123456789":
            return number(token)
        if token in ("+", "-"):
            return negative(self.expression(PRODUCT)) if token == "-" else self.expression(PRODUCT)
        if token in ("\\pm", "\\mp"):
            return (token, self.expression(PRODUCT))
        if token in CLOSING:
            return self.bracket(token)
        if name in FUNCTIONS:
            return self.function(FUNCTIONS[name])
        if token in CALCULUS:
            return self.calculus(CALCULUS[token])
        if token in BINDING or token in CLOSERS or not name or not name[0].isalpha():
            raise Undecided(f"unexpected {token}")
        return ("symbol", NAMES.get(name, name))

    def bracket(self, opening: str) -> tuple:
        bars, self.bars = self.bars, int(opening == "|")
        inner = self.expression()
        closing, self.bars = self.take(CLOSING[opening]), bars
        items = inner[1:] if inner[0] == "," else (inner,)
        if opening in ("|", "\\lfloor", "\\lceil"):
            return ({"|": "fabs", "\\lfloor": "floor"}.get(opening, "ceil"), inner)
        if opening == "begin":
            rows = inner[1:] if inner[0] == "rows" else (inner,)
            return ("rows", *(row if row[0] == "row" else ("row", row) for row in rows))
        if opening == "\\{" or (opening in "([" and len(items) > 1):
            return ("{}" if opening == "\\{" else opening + closing, *items)
        if closing != CLOSING[opening][0]:
            raise Undecided("half an interval")
        return inner

    def function(self, name: str) -> tuple:
        if name in ("frac", "binomial"):
            first = self.operand()
            pair = first[1:] if first[0] == "()" else (first, self.operand())
            return combined("/", *pair) if name == "frac" else (name, *pair)
        if name == "sqrt":
            index = self.operand() if self.next == "[" else ("number", Fraction(2))
            return ("^", self.operand(), combined("/", ("number", Fraction(1)), index))
        base = power = None
        while self.next in ("_", "^"):
            base, power = (self.operand(), power) if self.take() == "_" else (base, self.expression(POWER - 1))
        if power == negative(("number", Fraction(1))) and name in TRIGONOMETRIC:
            name, power = "a" + name, None
        inner = self.operand() if self.next in ("(", "{", "[") else None
        if inner is None:  # \sin 2 \pi x \cos x is sin(2 pi x) cos(x)
            inner = self.expression(PRODUCT)
            while self.binding() == PRODUCT and self.next not in BINDING and self.next.lstrip("\\") not in FUNCTIONS:
                inner = combined("*", inner, self.expression(PRODUCT))
        result = (name, *(inner[1:] if inner[0] in ("()", ",") else (inner,)), *([base] if base else []))
        return ("^", result, power) if power else result

    def calculus(self, name: str) -> tuple:
        """("sum", body, variable, low, high), the same for "prod" and "integral", or ("limit", body, variable, point)."""
        bounds = []
        while self.next in ("_", "^"):
            at = len(bounds) if self.take() == "^" else 0
            bounds.insert(at, self.operand())
        if name == "integral" and "d" in self.tokens[self.at : -2] and len(bounds) != 1:
            end = self.tokens.index("d", self.at)
            body = Parser([*self.tokens[self.at : end], ""]).expression()
            self.at = end + 2
            return (name, body, ("symbol", self.tokens[end + 1]), *bounds)
        if name == "integral" or len(bounds) != 1 + (name != "limit") or bounds[0][0] not in ("=", "\\to"):
            raise Undecided("a sum, limit or integral without its variable")
        return (name, self.expression(SUM), *bounds[0][1:], *bounds[1:])


def number(token: str) -> tuple:
    if "_" in token:
        return ("based", *re.sub("[{}]", "", token).lstrip("0").split("_"))
    digits, _, exponent = token.lower().partition("e")
    if len(digits) > MAX_DIGITS or len(exponent) > 5 or abs(int(exponent or 0)) > MAX_DIGITS:
        raise Undecided("too many digits")
    value = Fraction(digits.removesuffix(".")) * Fraction(10) ** int(exponent or 0)
    return ("number", value) if token.isdigit() else ("decimal", value, len(digits.replace(".", "").lstrip("0")))


# 4. Compare: first the values of expressions, then the shapes around them.
class Local(threading.local):
    """For each thread the time at which its verdict is due, and its arithmetic."""

    deadline, mp = float("inf"), None


local = Local()
AGREE, VANISH = 1e-110, 1e-135  # relative: what counts as equal, and what is left when all of 150 digits cancel
WHOLE_ONLY = {"factorial", "binomial", "sum", "prod", "\\bmod"}
RANGES = ((7, 40), (20, 99), (1, 30), (-99, -7), (-99, 99), (1, 18), (40, 150), (-18, 18), (20, 130))


def arithmetic():
    if local.mp is None:
        import mpmath  # comes with sympy; not imported before a value is needed

        local.mp = mpmath.MPContext()
        local.mp.dps = 150
    return local.mp


def check_time() -> None:
    if time.perf_counter() > local.deadline:
        raise Undecided("no time left")


def evaluate(node: tuple, values: dict):
    """The value at a point, real or complex, to 150 digits. Raises Undecided, NeedsSympy or an ArithmeticError."""
    check_time()
    mp, head = arithmetic(), node[0]
    if head in ("number", "decimal"):
        return mp.mpf(node[1].numerator) / node[1].denominator
    if head == "based":
        return mp.mpf(int(node[1], int(node[2])))
    if head == "symbol":
        return values[node[1]] if node[1] in values else {"e": mp.e, "pi": mp.pi, "i": mp.j}[node[1]] * 1
    if head in ("sum", "prod"):
        body, variable, low, high = node[1:]
        start, stop = (evaluate(bound, values) if bound != INFINITY else mp.inf for bound in (low, high))
        if not 0 <= stop - start <= 1000:
            raise NeedsSympy("an infinite or long sum")
        terms = [evaluate(body, values | {variable[1]: start + step}) for step in range(int(stop - start) + 1)]
        return add(terms) if head == "sum" else mp.fprod(terms)
    if head in ("integral", "limit"):
        raise NeedsSympy(head)
    arguments = [evaluate(child, values) for child in node[1:]]
    if head in ("+", "^", "*"):
        return power(*arguments) if head == "^" else add(arguments) if head == "+" else mp.fprod(arguments)
    if head in OPERATIONS:
        return OPERATIONS[head](*arguments)
    if head not in FUNCTIONS.values() or not all(abs(argument) < 1e6 for argument in arguments):
        raise Undecided(f"no value: {head}")
    if head in TRIGONOMETRIC and node[1][0] == "degree":
        arguments = [argument * mp.pi / 180 for argument in arguments]
    if head in ("floor", "ceil") and abs(arguments[0] - mp.nint(arguments[0].real)) < AGREE:
        return mp.nint(arguments[0].real)
    value = {"max": max, "min": min}.get(head, getattr(mp, head, None))(*arguments)
    if not mp.isfinite(value):
        raise ZeroDivisionError
    return mp.mpf(0) if head != "exp" and abs(value) < AGREE else value  # sin(pi) is zero, not 1e-151


OPERATIONS = {
    "/": lambda top, bottom: top / bottom, "percent": lambda value: value / 100, "degree": lambda value: value, "fabs": abs,
    "\\bmod": lambda value, modulus: arithmetic().fmod(value, modulus),
}  # fmt: skip


def add(terms: list):
    """A sum that knows a zero when all digits cancel and refuses to lose a term: 2^{5000}+1 is not 2^{5000}."""
    result, sizes = arithmetic().fsum(terms), [abs(term) for term in terms if term]
    if not sizes or abs(result) <= max(sizes) * VANISH:
        return arithmetic().mpf(0)
    if min(abs(result), *sizes) < max(sizes) * AGREE:
        raise Undecided("a term is lost")
    return result


def power(base, exponent):
    """base ** exponent; a negative base has its real root if the exponent's denominator is odd: (-8)^{1/3} = -2."""
    mp = arithmetic()
    if not base and exponent.real <= 0:
        raise ZeroDivisionError
    if not base or base == 1:
        return base
    if not abs(exponent * mp.log(base)) < 1e7:
        raise Undecided("too large")
    for denominator in (1, 3, 5, 7, 9) if is_real(base) and base.real < 0 and is_real(exponent) else ():
        numerator = mp.nint(exponent.real * denominator)
        if abs(exponent.real * denominator - numerator) < AGREE:
            return mp.power(-base.real, exponent.real) * (-1) ** int(numerator)
    return mp.power(base, exponent)


def is_real(value) -> bool:
    return abs(value.imag) <= abs(value) * AGREE


def close(left, right) -> bool:
    return abs(left - right) <= max(abs(left), abs(right)) * AGREE


def walk(node: tuple):
    """All subtrees."""
    yield node
    for child in node[1:]:
        if isinstance(child, tuple):
            yield from walk(child)


def samples(left: tuple, right: tuple):
    """The two values at each point where both have one and both are real (or neither is): at least three points."""
    nodes, mp, found = [*walk(left), *walk(right)], arithmetic(), 0
    names = sorted({node[1] for node in nodes if node[0] == "symbol"} - {"e", "i", "pi"})
    negative_bases = (node for node in nodes if node[0] == "^" and node[1][0] == "number" and node[1][1] < 0)
    whole = any(node[0] in WHOLE_ONLY for node in nodes) or any(negative_bases)
    scale = 1 if whole else 7 if any(node[0] in ("floor", "ceil") for node in nodes) else 74
    generator = random.Random(2602)  # the same points every time
    for low, high in (((1, 14),) * 14 if whole else RANGES) if names else ((0, 0),):
        numbers = [generator.randint(low, high) for _ in names]
        point = {name: mp.mpf(n if whole else 2 * n + 1) / scale for name, n in zip(names, numbers)}
        try:
            pair = evaluate(left, point), evaluate(right, point)
        except NeedsSympy:
            raise
        except (ArithmeticError, ValueError):  # a pole, or a value that is too large: other points will do
            check_time()
            continue
        if not names or is_real(pair[0]) == is_real(pair[1]):
            found += 1
            yield pair
    if found < (3 if names else 1):
        raise Undecided("too few points")


def same_value(left: tuple, right: tuple) -> bool:
    if left[0] == right[0] in ("number", "decimal"):
        return left[1] == right[1]
    if INFINITY in (left, right) or negative(INFINITY) in (left, right):
        return False
    try:
        return all(close(*pair) or rounds(left, pair[1]) or rounds(right, pair[0]) for pair in samples(left, right))
    except NeedsSympy:
        return ask_sympy(left, right)


def rounds(node: tuple, exact) -> bool:
    """True for a decimal of six digits or more to which an exact value without a finite decimal rounds, or is cut."""
    if node[0] != "decimal" or node[2] < 6:
        return False
    mp, shown = arithmetic(), evaluate(node, {})
    scaled = abs(exact) * mp.mpf(10) ** 100
    finite = abs(scaled - mp.nint(scaled)) < scaled * AGREE
    unit = mp.mpf(10) ** (mp.floor(mp.log10(abs(shown))) + 1 - node[2])
    return not finite and is_real(exact) and exact.real * shown > 0 and -unit / 2 <= abs(exact) - abs(shown) < unit


def proportional(left: tuple, right: tuple, positive: bool) -> bool:
    """True if left = c * right at all points for one constant c, which is not zero, and positive on demand."""
    pairs = [pair for pair in samples(left, right) if any(pair)]
    if not pairs or not all(map(all, pairs)) or (positive and not (pairs[0][0] / pairs[0][1]).real > 0):
        return False
    return all(close(pairs[0][0] * pair[1], pairs[0][1] * pair[0]) for pair in pairs)


SETS = {",", "{}", "\\cup"}
SHAPES = {"()", "[]", "(]", "[)", "\\cap", "\\setminus", ":", "row", "rows"}


def is_relation(node: tuple) -> bool:
    return node[0].split(" ")[0] in RELATIONS


def is_name(node: tuple) -> bool:
    """True for what is a mere name left of "=": x, f(x), (x, y), A:B, |AB|, AB."""
    if node[0] == "*":
        return all(factor[0] == "symbol" and factor[1][0].isupper() for factor in node[1:])
    return node[0] == "symbol" or (node[0] in ("()", ":", "fabs") and all(map(is_name, node[1:])))


def value_of(node: tuple) -> tuple:
    """The right side of "name = value" and "name in set", the left one of "value = name"; of others, the whole."""
    if node[0] in ("=", "= =", "\\in") and is_name(node[1]):
        return node[-1]
    return node[1] if node[0] == "=" and is_name(node[2]) else node


def as_interval(node: tuple) -> tuple:
    """5 < x as (5, infinity), -2 <= x < 7 as [-2, 7); others as they are. Inequalities were all turned to point right."""
    first, last = node[0].split(" ")[0], node[0].split(" ")[-1]
    brackets = ("[" if first == "<=" else "(", "]" if last == "<=" else ")")
    if not {first, last} <= {"<", "<="} or len(node) > 4:
        return node
    if len(node) == 4:
        return (brackets[0] + brackets[1], node[1], node[3]) if node[2][0] == "symbol" else node
    if node[1][0] == "symbol":
        return ("(" + brackets[1], negative(INFINITY), node[2])
    return (brackets[0] + ")", node[1], INFINITY) if node[2][0] == "symbol" else node


def members(node: tuple) -> list[tuple]:
    r"""The members of a list or set, or the one that it is; each a \pm b is two of them."""
    parts = node[1:] if node[0] in SETS else [node]
    return [signed(part, plus) for part in parts for plus in (("\\pm", "\\mp") if has_sign(part) else ("\\pm",))]


def has_sign(node: tuple) -> bool:
    return any(part[0] in ("\\pm", "\\mp") for part in walk(node))


def signed(node: tuple, plus: str) -> tuple:
    r"""The tree with one of \pm and \mp read as plus, the other as minus."""
    if node[0] in ("\\pm", "\\mp"):
        return signed(node[1], plus) if node[0] == plus else negative(signed(node[1], plus))
    return (node[0], *(signed(child, plus) if isinstance(child, tuple) else child for child in node[1:]))


def same(left: tuple, right: tuple) -> bool:
    """Equality of two trees: bring their shapes together, then compare member by member, then by value."""
    check_time()
    heads = {left[0], right[0]}
    if left == right:
        return True
    if is_relation(left) and left[0] == right[0]:
        return same_relation(left, right)
    if is_relation(left) or is_relation(right):
        met = value_of(left), value_of(right)
        if not (is_relation(met[0]) and is_relation(met[1])):
            met = as_interval(met[0]), as_interval(met[1])
        return met != (left, right) and same(*met)
    if heads == {",", "()"}:
        return in_order(left, right)
    if heads & SETS or has_sign(left) or has_sign(right):
        if "\\cup" in heads:
            if not heads <= {",", "\\cup"}:
                return False  # x < 1 or x > 2 is a list of two intervals
            left, right = ((",", *(as_interval(value_of(part)) for part in side[1:])) for side in (left, right))
        rest = members(right)
        for member in members(left):
            partner = next((candidate for candidate in rest if quietly(same, member, candidate)), None)
            if partner is None:
                return False
            rest.remove(partner)
        return not rest
    if "percent" in heads and left[0] != right[0]:
        inner, other = (left[1], right) if left[0] == "percent" else (right[1], left)
        return same(inner, other) or same(combined("/", inner, ("number", Fraction(100))), other)
    if heads & SHAPES:
        return left[0] == right[0] and in_order(left, right)
    if "based" in heads:
        based, other = (left, right) if left[0] == "based" else (right, left)
        return other[0] == "number" and str(other[1]) == based[1]
    return same_value(left, right)


def in_order(left: tuple, right: tuple) -> bool:
    return len(left) == len(right) and all(map(same, left[1:], right[1:]))


def quietly(question, *operands: tuple) -> bool:
    """A part that cannot be decided is not equal, but leaves the other parts to decide."""
    try:
        return question(*operands)
    except Undecided:
        check_time()
        return False


def same_relation(left: tuple, right: tuple) -> bool:
    """The same sides; else, equations up to a factor and inequalities up to a positive one."""
    if quietly(in_order, left, right):
        return True
    if left[0] not in ("=", "!=", "<", "<=") or any(child[0] in SETS | SHAPES for child in left[1:] + right[1:]):
        return False
    differences = [combined("+", node[1], negative(node[2])) for node in (left, right)]
    return proportional(*differences, positive=left[0] in ("<", "<="))


def compare(prediction: str, gold: str) -> tuple[bool, str]:
    """The verdict on two bare answers, and what decided it."""
    left, right = sorted((bare(prediction), bare(gold)))  # one order, so that the relation is symmetric
    is_arithmetic = PLAIN.fullmatch(left + right)  # the quick way, for the many answers that are numbers
    if not left or not right or not (is_arithmetic or (words(left) and words(right))):
        return False, "no answer"
    if left == right:
        return True, "text"
    if max(len(left), len(right)) > 4 * MAX_LENGTH:
        return False, "too long"
    local.deadline = time.perf_counter() + IN_PROCESS_SECONDS
    try:
        left, right = normalise(left), normalise(right)
        if not is_arithmetic and words(left) and words(left) == words(right):
            return True, "normal form"
        listed = THOUSANDS.search(left) or THOUSANDS.search(right)  # 1,234 may have been a list after all
        equal = quietly(same, parse(left), parse(right)) or (listed and same(parse(left, False), parse(right, False)))
        return bool(equal), "value"
    except (ArithmeticError, LookupError, ValueError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        return False, f"not decided: {error}"


# The worker with sympy, for integrals, limits and infinite sums.
idle: list[subprocess.Popen] = []  # workers that wait for a question; one is taken out while it answers
os.register_at_fork(after_in_child=idle.clear)  # a forked process must not talk to its parent's workers


def start_worker() -> subprocess.Popen:
    command = [sys.executable, os.path.abspath(__file__), "--worker"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    worker = subprocess.Popen(command, **pipes, text=True)
    worker.is_ready = False  # until it has said that sympy is imported
    return worker


@atexit.register
def stop_workers(workers: list[subprocess.Popen] = idle) -> None:
    while workers:
        worker = workers.pop()
        worker.kill()
        with contextlib.suppress(OSError):
            worker.communicate()  # closes the pipes, and leaves no zombie


def ask_sympy(left: tuple, right: tuple) -> bool:
    """Sympy's verdict, from a worker that is killed, and replaced, if it comes too late. Raises Undecided."""
    worker, answer = idle.pop() if idle else start_worker(), ""
    with contextlib.suppress(OSError), selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        due = min(local.deadline - IN_PROCESS_SECONDS, time.perf_counter()) + VERDICT_SECONDS
        if not worker.is_ready:
            if not selector.select(max(0, due - time.perf_counter())):
                idle.append(worker)  # not killed: it only has to import sympy once
                raise Undecided("sympy is not imported yet")
            worker.is_ready = bool(worker.stdout.readline())
        worker.stdin.write(json.dumps([left, right], default=str) + "\n")
        worker.stdin.flush()
        if selector.select(max(0, due - time.perf_counter())):
            answer = worker.stdout.readline()
    if not answer:
        stop_workers([worker])
        worker = start_worker()
    idle.append(worker)
    if not answer:
        raise Undecided("sympy found nothing in time")
    return answer.strip() == "true"


def serve() -> None:
    """The worker: a line with two trees comes in, a verdict goes out."""
    import resource

    import sympy

    with contextlib.suppress(OSError, ValueError):  # where the system knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (WORKER_BYTES, WORKER_BYTES))
    parent = os.getppid()

    def follow_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)  # whoever asked is gone, and a hanging question must not outlive it

    threading.Thread(target=follow_parent, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            left, right = (to_sympy(node, sympy) for node in json.loads(line))
            difference = sympy.simplify((left - right).doit())
            equal = difference == 0 or (not difference.free_symbols and abs(sympy.N(difference, 30)) < 1e-25)
        except Exception:  # whatever sympy raises, it has found no equality
            equal = False
        print(json.dumps(bool(equal)), flush=True)


def to_sympy(node: list, sympy):
    head, *rest = node
    if head in ("number", "decimal"):
        return sympy.Rational(*Fraction(rest[0]).as_integer_ratio())
    if head == "symbol":
        constants = {"e": sympy.E, "pi": sympy.pi, "i": sympy.I, "infinity": sympy.oo}
        return constants.get(rest[0], sympy.Symbol(rest[0], real=True))
    parts = [to_sympy(child, sympy) for child in rest]
    if head in ("integral", "sum", "prod"):
        return {"integral": sympy.Integral, "sum": sympy.Sum, "prod": sympy.Product}[head](parts[0], tuple(parts[1:]))
    if head == "/":
        return parts[0] / parts[1]
    names = {"+": "Add", "*": "Mul", "^": "Pow", "fabs": "Abs", "ceil": "ceiling", "max": "Max", "min": "Min"}
    return getattr(sympy, names.get(head, head))(*parts)


# The interface.
def is_equivalent(prediction: str, gold: str) -> bool:
    r"""True if two bare answers, which may carry $..$ or \boxed{}, mean the same. Never raises.

    >>> is_equivalent(r"\frac{1}{2}", "$0.5$"), is_equivalent("(1,2)", "(2,1)"), is_equivalent("", "")
    (True, False, False)
    """
    return compare(prediction, gold)[0]


def reward(text: str, gold: str) -> float:
    """1.0 if the answer in a model's output equals the gold answer, else 0.0."""
    answer = extract_answer(text)
    return float(answer is not None and is_equivalent(answer, gold))


def rewards(texts: list[str], golds: list[str]) -> list[float]:
    """The rewards of a batch, in order. What is not done in half a second goes to processes of its own, if it is much."""
    pairs, scores, start = list(zip(texts, golds, strict=True)), [], time.perf_counter()
    while len(scores) < len(pairs) and (time.perf_counter() < start + BATCH_SECONDS or len(pairs) - len(scores) < 200):
        scores.append(reward(*pairs[len(scores)]))
    rest = pairs[len(scores) :]
    count = max(1, min(os.cpu_count() or 1, 16, len(rest) // 100))
    size = -(-len(rest) // count) or 1
    with ThreadPoolExecutor(count) as threads:  # a thread starts with its first task only
        for part in threads.map(batch, [rest[at : at + size] for at in range(0, len(rest), size)]):
            scores += part
    return scores


def batch(pairs: list[tuple[str, str]]) -> list[float]:
    try:
        command = [sys.executable, os.path.abspath(__file__), "--rewards"]
        options = {"capture_output": True, "text": True, "timeout": 10 + len(pairs), "check": True}
        return json.loads(subprocess.run(command, input=json.dumps(pairs), **options).stdout)
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):  # no such process can be had: do it here
        return [reward(*pair) for pair in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description="Extract an answer, compare it with the gold one, say what decided.")
    parser.add_argument("cases", nargs="?", help="JSONL file of rows with gold, pred and, optionally, pred_kind")
    parser.add_argument("--gold", help="the gold answer")
    parser.add_argument("--text", help="a model's output")
    parser.error = lambda message: sys.exit(f"verify.py: {message}")
    options = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # a model's text may hold what no terminal can show
    if (options.cases is None) == (options.text is None) or (options.gold is None) != (options.text is None):
        parser.error("give either a JSONL file or both --gold and --text")
    if options.cases is None:
        answer = extract_answer(options.text)
        equal, stage = compare(answer, options.gold)
        print(f"extracted answer: {answer}\nits normal form:  {normalise(bare(answer))}")
        print(f"that of the gold: {normalise(bare(options.gold))}")
        print(f"verdict:          {'equal' if equal else 'not equal'}, decided by: {stage}")
        return
    count = 0
    try:
        with open(options.cases, encoding="utf-8") as lines:
            for count, line in enumerate(lines, 1):  # noqa: B007
                row = json.loads(line)
                gold, prediction = str(row["gold"]), str(row["pred"])
                answer = extract_answer(prediction) if row.get("pred_kind") == "output" else prediction
                equal, stage = compare(answer, gold)
                print(json.dumps({"gold": gold, "answer": answer, "equal": equal, "stage": stage}))
    except OSError as problem:
        sys.exit(f"verify.py: cannot read {options.cases}: {problem.strerror}")
    except (ValueError, LookupError, TypeError, AttributeError):
        sys.exit(f"verify.py: {options.cases}, line {count}: not an object with gold and pred")


if __name__ == "__main__":
    if sys.argv[1:] == ["--worker"]:
        serve()
    elif sys.argv[1:] == ["--rewards"]:
        print(json.dumps([reward(*pair) for pair in json.load(sys.stdin)]))
    else:
        main()
