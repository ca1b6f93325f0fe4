r"""One spelling for each thing that has many: the second stage of the verifier, after extraction; see verify.py.

An answer may be written \dfrac{1}{2}, \tfrac12, ½ or 1/2, with or without dollars, thin spaces and text commands.
`normalise` rewrites these to one form by a list of substitutions, in order, and leaves the rest to the parser
(grammar.py). `words` does the same for answers that are words, such as "Tuesday" or "(C)".
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from answers import units

# 1. Names.
TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}
HYPERBOLIC = {"sinh", "cosh", "tanh", "coth"}
FUNCTIONS = {  # by the names of mpmath, which evaluates them
    name: name for name in (*TRIGONOMETRIC, *HYPERBOLIC, "exp", "log", "floor", "ceil", "max", "min", "factorial", "binomial",
                            "sqrt", "frac", "gcd", "lcm", "cis", *(f"a{name}" for name in TRIGONOMETRIC))
}  # fmt: skip
FUNCTIONS |= {f"arc{name}": f"a{name}" for name in TRIGONOMETRIC} | dict.fromkeys(("sgn", "sign"), "sign")
FUNCTIONS |= {"ln": "log", "lg": "log10", "abs": "fabs"} | dict.fromkeys(("binom", "dbinom", "tbinom"), "binomial")
GREEK = [
    unicodedata.name(chr(code)).split()[-1].lower() for code in range(0x3B1, 0x3CA) if code != 0x3C2
]  # but final sigma
INFINITIES = ("oo", "inf", "infty", "infinity")
NAMES = (
    dict.fromkeys(INFINITIES, "infinity") | {name: name for name in GREEK} | {"varepsilon": "epsilon", "varphi": "phi"}
)

# 2. Characters.
CHARACTERS = {chr(0xFF01 + number): chr(0x21 + number) for number in range(94)}  # full width
CHARACTERS |= {chr(0x3B1 + number): f"\\{name} " for number, name in enumerate([*GREEK[:17], "sigma", *GREEK[17:]])}
CHARACTERS |= {
    char: "\\frac{" + unicodedata.normalize("NFKC", char).replace("\u2044", "}{") + "}" for char in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
}
CHARACTERS |= dict(zip("₀₁₂₃₄₅₆₇₈₉", (f"_{digit}" for digit in range(10))))
CHARACTERS |= {
    "−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "∞": "\\infty ", "√": "\\sqrt ", "∛": "\\sqrt[3] ",
    "≤": "<=", "≥": ">=", "⩽": "<=", "⩾": ">=", "≠": "!=", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "±": "\\pm ", "°": "\\degree ",
    "º": "\\degree ", "≈": "\\approx ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "′": "'", "’": "'", "“": "", "”": "", "…": "...", "。": ".", "、": ",",
    "\xa0": " ", "∅": "\\emptyset ", "△": "\\triangle ", "∠": "\\angle ", "∨": "\\lor ", "∧": "\\land ", "⌊": "\\lfloor ",
    "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ", "≡": "\\equiv ",
}  # fmt: skip
CHARACTERS = str.maketrans(CHARACTERS)
SUPERSCRIPT = re.compile("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")

# 3. Substitutions.
END = r"(?![A-Za-z])"  # where the name of a command ends
WORDS = r"\\(?:text[a-z]*|mbox|mathrm|mathbf|hbox|rm)\s*\{"
COMMANDS = {  # that mean the same as a character, or nothing
    name: character for names, character in {
        "le leq leqslant leqq": "<=", "ge geq geqslant geqq": ">=", "ne neq": "!=", "lt": "<", "gt": ">", "cdot times ast": "*",
        "div": "/", "vert lvert rvert mid": "|", "ldots cdots dots dotsb dotsc": "...", "colon": ":", "lbrace": r"\{", "rbrace": r"\}",
        "vee": r"\lor", "wedge": r"\land", "cr": r"\\", "backslash": r"\setminus", "varnothing": r"\emptyset",
        "overrightarrow": r"\vec", "dfrac tfrac cfrac nicefrac sfrac df": r"\frac", "approx left right big Big bigl bigr Bigl Bigr "
        "bigg biggl biggr displaystyle limits nolimits bf it rm underline ensuremath boldsymbol bm mathbf mathit mathsf": "",
    }.items() for name in names.split()
}  # fmt: skip
SAME = {  # answers in words that are one answer
    "nosolutions": "nosolution", "norealsolutions": "norealsolution", "doesnotexist": "dne", "allreals": "allrealnumbers",
    "none": "none", "yes": "yes", "no": "no", "true": "true", "false": "false", "dne": "dne", "undefined": "undefined",
}  # fmt: skip
NUMBERS = dict(zip(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"], map(str, range(21))))  # fmt: skip


def mixed_number(match: re.Match) -> str:
    r"""1\frac{4}{5} and 1 4/5 are sums; 2\frac{5}{3} stays a product."""
    whole, top, bottom = map(int, match.groups())
    return f"({whole}+{top}/{bottom})" if top < bottom else match[0]


def repeating_decimal(match: re.Match) -> str:
    r"""The fraction that 0.1\overline{6}, 0.1(6), 0.\dot{1}\dot{4} or 0.333... is."""
    whole, fixed, cycle = match[1], match[2], re.sub(r"\D", "", match[3])
    return f"({int(whole + fixed + cycle) - int('0' + whole + fixed)}/{'9' * len(cycle) + '0' * len(fixed)})"


def matrix(match: re.Match) -> str:
    """An array in brackets as a matrix, one in bars as a determinant."""
    kind = ("v" if match[1] == "|" else "p") + "matrix"
    return rf"\begin{{{kind}}}{match[2]}\end{{{kind}}}"


def interval(match: re.Match) -> str:
    """]1, 2] as (1, 2], and [1, 2[ as [1, 2)."""
    return f"({match[2]}{')' if match[3] == '[' else ']'}" if match[1] else f"[{match[5]})"


SPELLINGS: list = [  # applied in this order; verbose: a space that counts is written "\ "
    (r"\\\\(?=[A-Za-z]{2})(?!end|hline)", r"\\"),  # commands that were escaped twice
    (r"\\\$\s*(\d[\d,]*(?:\.\d+)?(?:\s*(?:hundred|thousand|[mb]illion))?)(?![\d,.]*\d)(?=\s*(?:$|[.,;=)$]|\\text|\\approx|and|or))",
     r"\1\\text{ dollars}"),
    (r"[€£¥]\s*(\d[\d,.]*) | (\d)\s*[€£¥](?=\s*$)", r"\1\2 "),
    # Money, the borders of formulas, and what follows in x = 1/3 \approx 0.33.
    (r"\\\$ | \$ | m?\\angle | (?<!\\)\\[()\[\]] | (?<=\S)\s*\\approx.* | \\(?:left|right)\.", ""),
    (r",?\\!\s* | \{,\s*\}", lambda match: "," if "," in match[0] else ""),  # the commas of 27,\!000 and 27{,}000
    (r"(?<!\\)\\[,;:>\ ] | \\hspace\{[^{}]*\} | ~", " "),
    (r"\\(?:text)?color\s*\{\w*\}", ""),
    (r"\\begin\{(?:aligned|align\*?|split|gathered)\} | \\end\{(?:aligned|align\*?|split|gathered)\}", ""),
    (r"(?:\\left)?\s*([(\[|])\s*\\begin\{(?:array\}\s*\{[^{}]*|matrix)\}(.*?)\\end\{(?:array|matrix)\}\s*(?:\\right)?\s*[)\]|]", matrix),
    (r"\\\\\s*\[[^\[\]]*\]", r"\\\\"),
    (rf"{WORDS}\s*(?:and|AND)\s*\}} | (?<![A-Za-z\\{{])and{END}", r" \\land "),
    (rf"{WORDS}\s*(?:or|OR)\s*\}} | (?<![A-Za-z\\{{])or{END}", r" \\lor "),
    (rf"{WORDS}\s*\\?%\s*\}} | \b(?:percent(?:age)?|pct)\b | \\%", "%"),
    (rf"(?:{WORDS}|\b)\s*(?:the\ set\ of\ )?all\ real(?:s|\ numbers)\s*\}}?", r"\\mathbb{R}"),
    (r"\\(?:mathbb|mathbf)\s*\{?\s*([RZNQ])\b\s*\}?", r"\\mathbb{\1}"),
    (rf"{WORDS}([^{{}}A-Za-z]*|\s*\d[^{{}}]*)\}}", r"\1"),  # \text{:}, \text{2 hours}
    (rf"(?<=:\d\d)\s*(?:{WORDS}\s?)?([apAP])\.?\s?[mM]\b\.?\s?\}}?", r"\\text{\1m}"),
    (rf"{WORDS}\s*({'|'.join(FUNCTIONS)})\s*\}}(?=\s*[({{|\\\w])", r"\\\1 "),
    (rf"{WORDS}\s*([A-Z](?:\s*,\s*[A-Z])+)\s*\}}", r"\1"),
    (r"\\operatorname\*?\s*\{\s*([A-Za-z]+)\s*\}", r"\\\1 "),
    (rf"(?<=\d)\s*(?:{WORDS}\s*times\s*\}}|\btimes\b)\s*(?=\d)", "*"),
    (rf"(?<=\d)\s*{WORDS}\s*to\s*\}}\s*(?=\d) | (?<=\d)\s+to\s+(?=\d)", ":"),
    (rf"(?<=\d)\s?\^?\{{?\s?(?:{WORDS}\s?)?(?:st|nd|rd|th)\b\s?\}}{{0,2}}", ""),  # ordinals
    (rf"\^\s*(?:\\circ{END}|\{{\s*\\circ\s*\}}) | (?:\^\s*|(?<!\s)\s+)?\\degrees?{END}", r"\\degree "),
    (r"\\degree\s*(?:\\(?:mathrm|text)\s*\{\s*([CF])\s*\} | ([CF])\b)", r"\\unit{deg\1\2}"),
    (r"(?<=[^\s+\-*/=<>,;(])\s*(?:\\q?quad\s*)+(?=[^\s+\-*/=<>)\\]|\\(?:text|frac))", ", "),
    (r"\\q?quad", " "),
]  # fmt: skip
LATER: list = [  # after the units
    (r"\\not\s*(?:=|\\eq\b)", "!="), (r"\\not\s*>", "<="), (r"\\not\s*<", ">="), (r"\\not\s*\\in\b", r"\\notin "),
    (r"\\([A-Za-z]+)", lambda match: COMMANDS.get(match[1], match[0])),
    (r"(?:,\s*){2,}", ", "), (r",\s*(?=\\l(?:and|or))", " "), (r",\s*&", "&"),
    (r"\^\s*(?:\\prime | \* | \{\s*(?:\\prime|\*)\s*\})", "'"),
    (r"\\frac\s*\{\s*d\s*([a-z])\s*\}\s*\{\s*d\s*x\s*\}", r"\1'"),
    (r"\\mathrm\s*\{\s*(~?[A-Za-z])\s*\}", r"\1 "),
    (rf"{WORDS}\s*([A-Za-z])\s*\}}", r"\1 "),
    (r"_\{\s*\\\w+\s*\{([^{}]*)\}\s*\}", r"_{\1}"),  # x_{\text{max}}
    (r"\(\s*([0-9A-Z]+)\s*\)\s*_", r"\1_"), (r"_\s*\{\s*two\s*\}", "_2"),
    (r"\\\\\s*(?=\\end)", ""),  # the end of a matrix's last row
    (r"^\s*\\text[a-z]*\s*\{(?![^{}]*\b(?:not|no)\b)[^{}]*(?:\b(?:is|are|be|equals)|:)\s*\}", ""),  # \text{The area is } 5
    (r",?\s*\\text\s*\{\s*,?\s*for\ (?:any|all|every|some)[^{}]*\}.*$", ""),
    (r"\(\s*(?:\\text\{\s*mod\s*\}|\\b?mod|mod)\s*\{?(\w+)\}?\s*\)", r"\\pmod{\1}"),
    (r"\\\{\s*([a-z])\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?::|\|)", r"\\{\1\\st "),
    (r"\\mathbb\s*\{?R\}?\s*_\s*\{?\s*([<>]=?)\s*0\s*\}?", r"x\g<1>0"),
    (r"(?<![\d.])0x([0-9A-Fa-f]{1,20})\b | (?<![\d.])0b([01]{1,60})\b", lambda m: str(int(m[1], 16) if m[1] else int(m[2], 2))),
    (r"(?:\{\})?[\^_]\{?(\d+)\}?\s*C\s*_\{?(\d+)\}? | \bC\s*_\{?(\d+)\}?\s*\^\s*\{?(\d+)\}?", r"\\binom{\1\3}{\2\4}"),
    (r"\bC\s*\((\d+),\s*(\d+)\)", r"\\binom{\1}{\2}"),
    (r"(?<=\d)'(?=\d{3})", ""),
    (r"(?<![\d.,\w])(\d{1,3}(?:\ \d{3})+)(?![\d])", lambda match: match[0].replace(" ", "")),  # 1 234 567
    (r"\\frac\s*(\d)\s*(?=[\d\\{A-Za-z])", r"\\frac{\1}"),  # \frac12: first its top, then its bottom
    (r"(\\frac\{\d+\})\s*(\d)", r"\1{\2}"),
    (r"(?<![\d.^_}])(\d+)\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}", mixed_number),
    (r"(?<![\d.^])(\d+)\ +(\d+)/(\d+)(?![\d.])", mixed_number),
    (r"(?<![\d.])(\d{0,30})\.(\d{0,30})(?:\\(?:overline|bar|dot)\s*(\{?\d{1,30}\}?(?:\d*\\dot\s*\{?\d\}?)?))", repeating_decimal),
    (r"(?<![\d.])(\d{1,30})\.(\d{0,30})\((\d{1,30})\)", repeating_decimal),
    (r"(?<![\d.])(\d{0,30})\.(\d{0,6}?)(\d{1,6}?)\3{2,30}\.\.\.", repeating_decimal),
    (r"(?:^|(?<=[\sp=]))(\])([^\[\]]*)([\[\]]) | (?:^|(?<=[\sp=]))(\[)([^\[\]]*)\[(?=\s*(?:\\cup|$))", interval),
]  # fmt: skip
SPELLINGS = [(re.compile(pattern, re.VERBOSE), replacement) for pattern, replacement in SPELLINGS]
LATER = [(re.compile(pattern, re.VERBOSE), replacement) for pattern, replacement in LATER]
PLAIN = re.compile(r"(?!.*\.(?:\.|[0-9]*\())(?=.*[0-9])[0-9+\-*/().]*")  # arithmetic, which is normal as it is


@lru_cache(maxsize=1024)  # a gold answer is read for each sample
def normalise(text: str) -> str:
    r"""One spelling for each thing that has many; what is left is for the parser.

    >>> normalise(r"$\dfrac{1}{2}\times 27{,}000$"), normalise(r"3\frac12"), normalise("x ≥ 5.")
    ('\\frac{1}{2}* 27,000', '(3+1/2)', 'x >= 5')
    """
    if PLAIN.fullmatch(text):
        return text
    text = " ".join(text.split())
    if not text.isascii():
        text = SUPERSCRIPT.sub(
            lambda match: "^{" + unicodedata.normalize("NFKC", match[0]).replace("\u2212", "-") + "}", text
        )
        text = text.translate(CHARACTERS)
    for pattern, replacement in SPELLINGS:
        text = pattern.sub(replacement, text)
    text = units.mark(text if "\\begin" in text else text.replace("&", ""))
    for pattern, replacement in LATER:
        text = pattern.sub(replacement, text)
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"(?<!\.\.)[.,;\s]+$", "", text) if not text.endswith("...") else text


WORDS_OF = re.compile(WORDS + r"([^{}]*)\}")


def words(text: str) -> str:
    r"""An answer in words: without markup and space and, inside \text or from four letters on, without case.

    >>> words(r"\text{ Tuesday}"), words(r"\textbf{(C)}"), words("x")
    ('tuesday', 'C', 'x')
    """
    found = WORDS_OF.sub(r"\1", WORDS_OF.sub(r"\1", text.replace("$", "")))
    found = re.sub(r"(?<!\d)\s+|\s+(?!\d)|(?<!\.)\.$", "", found)
    found = found.strip("()") if re.fullmatch(r"\(?[A-Za-z]\)", found) else found
    found = re.sub(r"^(?:[Oo]ption|[Cc]hoice)\(?([A-Z])\)?$", r"\1", found)
    plain = found.casefold()
    long = len(found) > (1 if "\\text" in text else 3) or plain in SAME
    return SAME.get(plain, NUMBERS.get(plain, plain)) if long and re.fullmatch(r"[A-Za-z'\-.,]+", found) else found
