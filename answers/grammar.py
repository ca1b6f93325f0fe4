r"""The text of an answer as a tree: tokenise -> parse. The third stage of the verifier; see verify.py.

A small precedence parser of our own reads the text. Text is never evaluated and never reaches sympy, and only an own
grammar can promise its limits: length, depth, digits, the size of an exponent. Parsing takes n log n steps.

The trees are nested tuples of a head and what it holds. Sums and products are in one order, so that a + b = b + a. Heads
that are no operator or function of the text:

    ("number", Fraction)  ("decimal", Fraction, digits shown)  ("symbol", name)  ("based", digits, base)  ("unit", tree, "km/h")
    ("< <=", low, middle, high)  a relation; x > 5 is read as 5 < x     ("rows", ("row", tree, ...), ...)  a matrix
    (",", tree, ...)  ("{}", tree, ...)  ("(]", low, high)  a list, a set, an interval; a tuple is "()"
    ("sum", body, variable, low, high)  and so "prod" and "integral"    ("limit", body, variable, point)

>>> parse(r"\frac{x+1}{2}")
('/', ('+', ('number', Fraction(1, 1)), ('symbol', 'x')), ('number', Fraction(2, 1)))
>>> parse("0.50"), parse("52_8"), parse("x>5")
(('decimal', Fraction(1, 2), 2), ('based', '52', '8'), ('<', ('number', Fraction(5, 1)), ('symbol', 'x')))
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from answers.spelling import FUNCTIONS, HYPERBOLIC, NAMES, TRIGONOMETRIC, words
from answers.trees import MINUS_ONE, Undecided, determinant, negative, number, quotient, total

MAX_LENGTH, MAX_DEPTH = 2000, 40  # of what is parsed: characters, nested brackets


# 1. Tokenise: numbers, operators, names.
MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
RELATIONS = ["=", "!=", *MIRRORED, "\\in", "\\notin", "\\equiv", "\\to", "\\rightarrow", "\\sim", "\\subset", "\\iff"]
RELATIONS += ["\\parallel", "\\perp"]
RELATION, UNIT, SUM, PRODUCT, POWER, POSTFIX = 5, 7, 9, 10, 12, 13
LEVELS = [  # what stands between operands, from loose to tight: a token's level is how tight it binds
    [], ["\\lor"], ["\\\\", ";"], [",", "&", "\\land"], ["\\pmod", "\\mod"], RELATIONS, ["\\cup", "\\cap", "\\setminus"], [],
    [":", "\\over", "\\choose"], ["+", "-", "\\pm", "\\mp"], ["*", "/", "\\bmod"], [], ["^", "**"], ["!", "!!", "%", "\\degree"],
]  # fmt: skip
BINDING = {token: level for level, tokens in enumerate(LEVELS) for token in tokens}
HEADS = {
    ";": ",", "&": "row", "\\\\": "rows", "**": "^", "!": "factorial", "!!": "fac2", "%": "percent", "\\degree": "degree",
    "\\mod": "\\pmod", "\\choose": "binomial",
}  # fmt: skip
CLOSING = {
    "(": [")", "]"], "[": ["]", ")"], "{": ["}"], "|": ["|"], "\\{": ["\\}"], "\\langle": ["\\rangle"],
    "\\lfloor": ["\\rfloor"], "\\lceil": ["\\rceil"], "begin": ["end"], "vbegin": ["end"], "cbegin": ["end"],
}  # fmt: skip
CLOSERS = {token for tokens in CLOSING.values() for token in tokens if token != "|"}
CALCULUS = {"\\sum": "sum", "\\prod": "prod", "\\int": "integral", "\\lim": "limit"}
TOKEN = re.compile(
    r"""\s*(?: (?P<number> \d+_(?:\d+|\{\d+\}) | (?:\d+\.(?!\.)\d*|\.\d+)(?:[eE][-+]?\d+)?
        | 1e[-+]\d+ | \d+(?:E[-+]?\d+|e\d+|e[-+]\d{2,})? )  # 4e-2 is 4e minus 2, but 1e-2, 4.0e-2 and 4E-2 are numbers
    | \\(?P<edge>begin|end)\s*\{(?P<kind>[pbvBV]?(?:small)?matrix\*?|cases)\}
    | \\unit\{(?P<unit>[^{}]*)\}
    | \\(?:text[a-z]*|mbox|mathrm|hbox)\s*\{(?P<text>[^{}]*)\}
    | (?P<name> \\(?:overline|bar|vec|hat|widehat|tilde|overleftarrow|overleftrightarrow|mathbb|mathcal|mathscr)\s*(?:\{[^{}]*\}|\w)
        | \\?[A-Za-z]+ )
    | (?P<operator> \\[{}\\] | \.\.\. | \*\* | !! | [<>!]= | [-+*/^_=<>(){}\[\]|,;:!%&] ))""",
    re.VERBOSE,
)
SUBSCRIPT = re.compile(
    r"""(?:\ ?_\ ?(?:\{[^{}]*\}|\w))?'*  # x_1, f'
    (?: (?<=[fFG'])\([^()]*\) | (?<![eiC])\((?:[A-Za-z]|\d+)\) )?  # f(2x), and p(n) for any name but e and i""",
    re.VERBOSE,
)
WITHOUT_SUFFIX = {*BINDING, *CALCULUS, *CLOSING, *CLOSERS, "\\pi", "\\st", *FUNCTIONS, *map("\\{}".format, FUNCTIONS)}


def tokenise(text: str) -> list[str]:
    """Numbers, operators, and names with their subscripts and arguments: x_1, f(x). Letters in a row are a product.

    >>> tokenise("2ab_1 >= f(x)"), tokenise("2abcd"), tokenise("MAKE")
    (['2', 'a', 'b_1', '>=', 'f(x)'], ['2', 'a', 'b', 'c', 'd'], ['MAKE'])
    """
    tokens, position = [], 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if not match:
            raise Undecided("an unknown character")
        kind, token, position = match.lastgroup, match[match.lastgroup], match.end()
        if kind == "text":
            token = "\\text" + (words(f"\\text{{{token}}}") or "nothing")
        elif kind == "unit":
            token = "\\unit" + token
        elif kind == "kind":  # vmatrix and cases are told from other matrices
            token = "end" if match["edge"] == "end" else token[0].lower().strip("pbsm") + "begin"
        elif kind == "name" and token not in WITHOUT_SUFFIX:
            if token[0] != "\\" and token not in NAMES and is_product(token, text):
                tokens += token[:-1]  # letter by letter
                token = token[-1]
            suffix = SUBSCRIPT.match(text, position)
            token, position = token + re.sub(r"[{} ]", "", suffix[0]), suffix.end()
        tokens.append(token)
    return tokens


def is_product(letters: str, text: str) -> bool:
    """True for mgh and 2abcd, False for a word or a name such as even or MAKE, whose letters have an order."""
    return len(letters) < 4 or (letters.islower() and (len({*letters} & {*"aeiou"}) < 2 or letters != text.strip()))


# 2. Parse.
NUMERIC = ("number", "decimal")
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def parse(text: str) -> tuple:
    """The tree of a normalised answer. Raises Undecided."""
    return read(text)[0]


@lru_cache(maxsize=4096)
def read(text: str) -> tuple[tuple, bool]:
    """The tree, and whether the text has arithmetic of bare numbers, such as 3*4, which is done in the tree."""
    if len(text) > MAX_LENGTH:
        raise Undecided("too long")
    parts, end, depth = [], 0, 0
    for found in THOUSANDS.finditer(text):
        between = text[end : found.start()]
        depth += sum(map(between.count, "([{")) - sum(map(between.count, ")]}"))
        parts += [between, found[0] if depth > 0 else found[0].replace(",", "")]  # in brackets, (2,251,252) is a triple
        end = found.end()
    parser = Parser([*tokenise("".join(parts) + text[end:]), ""])
    tree = parser.expression()
    if parser.next:
        raise Undecided(f"unexpected {parser.next}")
    return tree, parser.is_arithmetic


class Parser:
    """Precedence climbing: `expression(floor)` reads on for as long as the tokens bind tighter than the floor."""

    def __init__(self, tokens: list[str]):
        self.tokens, self.at, self.depth, self.bars, self.is_arithmetic = tokens, 0, 0, 0, False

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
        if token.startswith("\\unit"):
            return UNIT
        before, last = self.tokens[self.at - 2], self.tokens[self.at - 1]
        apart = token[0] not in ".0123456789" or last in (")", "]", "}", "!", "!!") or before in ("^", "**")
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
        """The tree of the left operand and all that its next operators, of one level, join to it."""
        if left[0] == "unit" and binding >= UNIT:
            raise Undecided("more behind a unit")
        if binding == UNIT:
            return ("unit", left, self.take().removeprefix("\\unit"))
        if binding == POSTFIX:
            return (HEADS[self.take()], left)
        if binding == POWER:
            self.take()
            return ("^", left, self.expression(POWER - 1))  # powers are read from the right
        if binding == PRODUCT:
            return self.product(left)
        tokens, parts = [], [left]
        while self.binding() == binding:
            tokens.append(self.take())
            parts.append(self.expression(binding))
            if tokens[-1] in ("-", "\\pm", "\\mp"):
                parts[-1] = negative(parts[-1]) if tokens[-1] == "-" else (tokens[-1], parts[-1])
        if binding == SUM:
            self.is_arithmetic |= sum(part[0] in NUMERIC for part in parts) > 1
            return total("+", parts)
        if binding == RELATION and set(tokens) <= {">", ">="}:  # x >= 5 is read as 5 <= x
            tokens, parts = [MIRRORED[token] for token in tokens[::-1]], parts[::-1]
        if binding == RELATION:
            return (" ".join(tokens), *parts)
        heads = {HEADS.get(token, token) for token in tokens}
        heads -= {","} if "\\land" in heads else set()
        if len(heads) > 1:
            raise Undecided("operators that need brackets")
        head = heads.pop()
        return quotient(*parts) if head == "\\over" else (head, *parts)

    def product(self, left: tuple) -> tuple:
        tops, bottoms = [left], []
        while self.binding() == PRODUCT:
            token = self.take() if self.next in BINDING else "*"
            right = self.expression(PRODUCT)
            if token == "\\bmod":
                if tops[0][0] == token:
                    raise Undecided("remainders that need brackets")
                tops, bottoms = [("\\bmod", quotient(total("*", tops), total("*", bottoms)), right)], []
            else:
                (bottoms if token == "/" else tops).append(right)
        self.is_arithmetic |= sum(part[0] in NUMERIC for part in tops) > 1
        top = total("*", tops) if len(tops) > 1 else tops[0]
        return quotient(top, total("*", bottoms)) if bottoms else top

    def operand(self) -> tuple:
        token = self.take()
        name = token.lstrip("\\")
        if token[0] in ".0123456789" and token != "...":
            return number(token)
        if token in ("+", "-", "\\pm", "\\mp"):
            inner = self.expression(PRODUCT)
            return negative(inner) if token == "-" else inner if token == "+" else (token, inner)
        if token in CLOSING:
            return self.bracket(token)
        if name in FUNCTIONS:
            return self.function(FUNCTIONS[name])
        if token in CALCULUS:
            return self.calculus(CALCULUS[token])
        if token in BINDING or token in CLOSERS or not (name[:1].isalpha() or token == "..."):
            raise Undecided(f"unexpected {token}")
        return ("symbol", NAMES.get(name, name))

    def bracket(self, opening: str) -> tuple:
        bars, self.bars = self.bars, int(opening == "|")
        if opening == "\\{" and self.next == "\\}":
            return ("symbol", self.take() and "emptyset")
        is_builder = opening == "\\{" and self.tokens[self.at + 1 : self.at + 2] == ["\\st"]
        self.at += 2 * is_builder
        inner = self.expression()
        closing, self.bars = self.take(*CLOSING[opening]), bars
        items = inner[1:] if inner[0] == "," else (inner,)
        if opening in ("|", "\\lfloor", "\\lceil"):
            return ({"|": "fabs", "\\lfloor": "floor"}.get(opening, "ceil"), inner)
        if opening.endswith("begin"):
            rows = inner[1:] if inner[0] in ("rows", ",") else (inner,)
            if opening == "vbegin":
                return determinant([row[1:] if row[0] == "row" else (row,) for row in rows])
            if opening == "cbegin":  # a piecewise function, or a list of equations
                return ("cases" if any(row[0] == "row" for row in rows) else ",", *rows)
            return ("rows", *(row if row[0] == "row" else ("row", row) for row in rows))
        if is_builder:
            return inner
        if opening in ("\\{", "\\langle") or (opening in "([" and len(items) > 1):
            return ({"\\{": "{}", "\\langle": "<>"}.get(opening, opening + closing), *items)
        if closing != CLOSING[opening][0]:
            raise Undecided("half an interval")
        return inner

    def function(self, name: str) -> tuple:
        if name in ("frac", "binomial"):
            first = self.operand()
            pair = first[1:] if first[0] == "()" else (first, self.operand())
            return quotient(*pair) if name == "frac" else (name, *pair)
        if name == "sqrt":
            index = self.operand() if self.next == "[" else ("number", Fraction(2))
            return ("^", self.operand(), quotient(("number", Fraction(1)), index))
        base = power = None
        while self.next in ("_", "^"):
            if self.take() == "_":
                base = self.operand()
            else:
                power = self.expression(POWER - 1)
        if power == MINUS_ONE and name in TRIGONOMETRIC | HYPERBOLIC:
            name, power = "a" + name, None
        inner = self.operand() if self.next in ("(", "{", "[", "\\{") else None
        if inner is None:  # \sin 2 \pi x \cos x is sin(2 pi x) cos(x)
            factors = [self.expression(PRODUCT)]
            while self.binding() == PRODUCT and self.next not in BINDING and self.next.lstrip("\\") not in FUNCTIONS:
                factors.append(self.expression(PRODUCT))
            inner = total("*", factors)
        if name == "cis":
            return ("^", ("symbol", "e"), total("*", [("symbol", "i"), inner]))
        result = (name, *(inner[1:] if inner[0] in ("()", ",", "{}") else (inner,)), *([base] if base else []))
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
