r"""The text of an answer as a tree: tokenise -> parse. The third stage of the verifier; see verify.py.

An answer is read with a small precedence parser of our own. Text is never evaluated and never reaches sympy, and only
an own grammar can promise its limits: length, depth, digits, the size of an exponent. On the labelled pairs of
verify_bench.py this is some seventy times faster than Math-Verify with latex2sympy2_extended, and more often right.

>>> parse(r"\frac{x+1}{2}")
('/', ('+', ('number', Fraction(1, 1)), ('symbol', 'x')), ('number', Fraction(2, 1)))

The trees are nested tuples, a head and what it holds. The operands of sums and products are in one order, so that a + b
and b + a have the same tree.

    ("number", Fraction)  ("decimal", Fraction, digits shown)  ("symbol", name)  ("based", digits, base)
    ("+", tree, ...)  ("*", tree, ...)  ("/", top, bottom)  ("^", base, exponent)  ("sin", tree)  ("factorial", tree)
    ("=", left, right)  ("<", left, right)  ("< <=", low, middle, high)      a relation; x > 5 is read as 5 < x
    (",", tree, ...)  ("{}", tree, ...)                                      a list without brackets, a set
    ("()", tree, ...)  ("(]", low, high)  ("\\cup", tree, tree)              tuple or interval with its brackets, union
    ("rows", ("row", tree, ...), ...)                                        a matrix
    ("sum", body, variable, low, high)                                       and so "prod" and "integral"
    ("limit", body, variable, point)

>>> parse("0.50"), parse("52_8"), parse("x>5")
(('decimal', Fraction(1, 2), 2), ('based', '52', '8'), ('<', ('number', Fraction(5, 1)), ('symbol', 'x')))
>>> parse("1,x"), parse("(0,x]")[0], parse(r"\sin x")
((',', ('number', Fraction(1, 1)), ('symbol', 'x')), '(]', ('sin', ('symbol', 'x')))
>>> parse("x+1") == parse("1+x"), parse("x+1") == parse("x+2")
(True, False)
"""

from __future__ import annotations

import operator
import re
from fractions import Fraction
from functools import lru_cache

from answers.spelling import FUNCTIONS, NAMES, TRIGONOMETRIC, words

MAX_LENGTH, MAX_DEPTH, MAX_DIGITS = 2000, 40, 100  # of what is parsed: characters, nested brackets, digits of a number


class Undecided(ValueError):
    """Outside of the grammar, over a limit, or without a value that can be found here."""


# 1. Tokenise: numbers, operators, names.
MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
RELATIONS = ["=", "!=", *MIRRORED, "\\in", "\\equiv", "\\to", "\\rightarrow", "\\sim", "\\subset", "\\iff"]
RELATION, SUM, PRODUCT, POWER, POSTFIX = 3, 6, 7, 9, 10
LEVELS = [  # what stands between operands, from loose to tight; a token's level is how tight it binds
    [], ["\\\\", ";"], [",", "&"], RELATIONS, ["\\cup", "\\cap", "\\setminus"], [":"], ["+", "-", "\\pm", "\\mp"],
    ["*", "/", "\\bmod", "\\mod", "\\pmod"], [], ["^", "**"], ["!", "%", "\\degree"],
]  # fmt: skip
BINDING = {token: level for level, tokens in enumerate(LEVELS) for token in tokens}
HEADS = {";": ",", "&": "row", "\\\\": "rows", "**": "^", "!": "factorial", "%": "percent", "\\degree": "degree"}
HEADS |= {"\\mod": "\\bmod", "\\pmod": "\\bmod"}
CLOSING = {"(": [")", "]"], "[": ["]", ")"], "{": ["}"], "|": ["|"], "\\{": ["\\}"]}
CLOSING |= {"\\lfloor": ["\\rfloor"], "\\lceil": ["\\rceil"], "begin": ["end"]}
CLOSERS = {token for tokens in CLOSING.values() for token in tokens if token != "|"}
CALCULUS = {"\\sum": "sum", "\\prod": "prod", "\\int": "integral", "\\lim": "limit"}
TOKEN = re.compile(
    r"""\s*(?: (?P<number> \d+_(?:\d+|\{\d+\}) | (?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)? )
    | \\(?P<edge>begin|end)\s*\{[pbvB]?(?:small)?matrix\*?\}
    | \\(?:text[a-z]*|mbox|mathrm|hbox)\s*\{(?P<text>[^{}]*)\}
    | (?P<name> \\(?:overline|bar|vec|hat|mathbb|mathcal)\s*(?:\{[^{}]*\}|\w) | \\?[A-Za-z]+ )
    | (?P<operator> \\[{}\\] | \*\* | [<>!]= | [-+*/^_=<>(){}\[\]|,;:!%&] ))""",
    re.VERBOSE,
)
SUBSCRIPT = re.compile(
    r"""(?:\ ?_\ ?(?:\{[^{}]*\}|\w))?'*  # x_1, f'
    (?: (?<=[fghFGH'])\([^()]*\) | (?<![ei])\((?:[A-Za-z]|\d+)\) )?  # f(2x), and p(n) for any name but e and i""",
    re.VERBOSE,
)
WITHOUT_SUFFIX = {*BINDING, *CALCULUS, *CLOSING, *CLOSERS, "\\pi", *FUNCTIONS, *(f"\\{name}" for name in FUNCTIONS)}


def tokenise(text: str) -> list[str]:
    """Numbers, operators, and names with their subscripts and arguments: x_1, f(x). Letters in a row are a product.

    >>> tokenise("2ab_1 >= f(x)")
    ['2', 'a', 'b_1', '>=', 'f(x)']
    """
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
                tokens += token[:-1]  # letter by letter
                token = token[-1]
            suffix = SUBSCRIPT.match(text, position)
            token, position = token + re.sub(r"[{} ]", "", suffix[0]), suffix.end()
        tokens.append(token or "no words")
    return tokens


# 2. Trees.
INFINITY, MINUS_ONE = ("symbol", "infinity"), ("number", Fraction(-1))
SMALL = {"+": operator.add, "*": operator.mul, "/": operator.truediv}


def combined(head: str, left: tuple, right: tuple) -> tuple:
    """A sum, product or quotient: of small numbers the number, otherwise flat and in one order."""
    if left[0] == right[0] == "number" and abs(left[1]) + abs(right[1]) < 10**9 and (head != "/" or right[1]):
        return ("number", SMALL[head](left[1], right[1]))
    if head == "+" and left[0] == right[0] in ("rows", "row") and len(left) == len(right):  # matrices
        return (left[0], *(combined(head, *pair) for pair in zip(left[1:], right[1:])))
    if head == "/":
        return (head, left, right)
    parts = (part for side in (left, right) for part in (side[1:] if side[0] == head else [side]))
    return (head, *sorted(parts, key=repr))


def negative(node: tuple) -> tuple:
    return (node[0], -node[1], *node[2:]) if node[0] in ("number", "decimal") else combined("*", MINUS_ONE, node)


# 3. Parse.
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


@lru_cache(maxsize=4096)
def parse(text: str, thousands: bool = True) -> tuple:
    """The tree of a normalised answer. Raises Undecided."""
    if len(text) > MAX_LENGTH:
        raise Undecided("too long")
    for found in list(THOUSANDS.finditer(text))[::-1] if thousands else []:
        before, after = text[: found.start()], text[found.end() :]
        if max(map(before.rfind, "([{")) <= max(map(before.rfind, ")]}")):  # in brackets, (2,251,252) is a triple
            text = before + found[0].replace(",", "") + after
    parser = Parser([*tokenise(text), ""])
    tree = parser.expression()
    if parser.next:
        raise Undecided(f"unexpected {parser.next}")
    return tree


class Parser:
    """Precedence climbing: `expression(floor)` reads on for as long as the tokens bind tighter than the floor."""

    def __init__(self, tokens: list[str]):
        self.tokens, self.at, self.depth, self.bars = tokens, 0, 0, 0

    next = property(lambda self: self.tokens[self.at])

    def take(self, *wanted: str) -> str:
        if not self.next or (wanted and self.next not in wanted):
            raise Undecided(f"{self.next or 'the end'} instead of {' or '.join(wanted) or 'an operand'}")
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
        closing, self.bars = self.take(*CLOSING[opening]), bars
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
            if self.take() == "_":
                base = self.operand()
            else:
                power = self.expression(POWER - 1)
        if power == MINUS_ONE and name in TRIGONOMETRIC:
            name, power = "a" + name, None
        inner = self.operand() if self.next in ("(", "{", "[") else None
        if inner is None:  # \sin 2 \pi x \cos x is sin(2 pi x) cos(x)
            inner = self.expression(PRODUCT)
            while self.binding() == PRODUCT and self.next not in BINDING and self.next.lstrip("\\") not in FUNCTIONS:
                inner = combined("*", inner, self.expression(PRODUCT))
        result = (name, *(inner[1:] if inner[0] in ("()", ",") else (inner,)), *([base] if base else []))
        return ("^", result, power) if power else result

    def calculus(self, name: str) -> tuple:
        """A sum, product, integral or limit, with its bounds; for sums, products and limits they name the variable."""
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
