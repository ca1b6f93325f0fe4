r"""One spelling for each thing that has many: the second stage of the verifier, after extraction; see verify.py.

An answer may be written \dfrac{1}{2}, \tfrac12, ½ or 1/2, with or without dollars, units, thin spaces and text commands.
`normalise` rewrites these to one form by a list of substitutions, in order, and leaves the rest to the parser
(grammar.py). `words` does the same for answers that are words, such as "Tuesday" or "(C)".
"""

from __future__ import annotations

import re

# 1. Names.
TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}
FUNCTIONS = {  # by the names of mpmath, which evaluates them
    name: name for name in (*TRIGONOMETRIC, "sinh", "cosh", "tanh", "exp", "log", "floor", "ceil", "max", "min",
                            "factorial", "asin", "acos", "atan", "binomial", "sqrt", "frac")
}  # fmt: skip
FUNCTIONS |= {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "ln": "log", "lg": "log10", "abs": "fabs"}
FUNCTIONS |= dict.fromkeys(("binom", "dbinom", "tbinom"), "binomial")
INFINITIES = ("oo", "inf", "infty", "infinity")
GREEK = ("pi", "alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "sigma", "tau", "phi", "omega")
NAMES = dict.fromkeys(INFINITIES, "infinity") | {name: name for name in GREEK}

# 2. Normalise: one spelling for each thing that has many.
NO_UNIT = "or|and|not|than|least|most|more|less|except|if|when|where|even|odd|for|any|all|no|to"  # changes the meaning
UNIT = rf"""(?!(?:{"|".join([*FUNCTIONS, *NAMES])})[xyzt]?\b | (?:{NO_UNIT})\b)
    (?: (?<=\s)[A-Za-z]{{4,}} | [ckm]m | [km]g | lb | oz | ft | in | yd | mi | hr | min | sec | m[lpk][ghL]? | kph | sq
      | cu | deg | day | men | mol | [kM]?(?:J|W|Pa|Hz|eV) )\b
    (?: \s (?!(?:{NO_UNIT})\b) [A-Za-z]{{2,}} )* (?: /[A-Za-z]+ )?"""
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


END = r"(?![A-Za-z])"  # where the name of a command ends
WORDS = r"\\(?:text[a-z]*|mbox|mathrm|mathbf|hbox)\s*\{"
COMMANDS = {  # that mean the same as a character, or nothing
    r"leq?|leqslant|leqq": "<=", r"geq?|geqslant|geqq": ">=", r"neq?|not\s*=": "!=", r"lt": "<", r"gt": ">",
    r"cdot|times|ast": "*", r"div": "/", r"[lr]?vert|mid": "|", r"ldots|cdots|dots": "...", r"approx": "",
    r"left|right|[bB]igg?[lr]?|displaystyle|(?:no)?limits": "", r"varnothing": r"\\emptyset", r"[dtc]frac": r"\\frac",
}  # fmt: skip
SPELLINGS: list = [  # applied in this order; verbose: a space that counts is written "\ "
    (r"\\\\(?=[A-Za-z]{2})", r"\\"),  # commands that were escaped twice
    # Money, the borders of formulas, and what follows in x = 1/3 \approx 0.33.
    (r"\\\$ | \$ | m?\\angle | (?<!\\)\\[()\[\]] | (?<=\S)\s*\\approx.* | \\(?:left|right)\.", ""),
    (r",?\\!\s* | \{,\s*\}", lambda match: "," if "," in match[0] else ""),  # the commas of 27,\!000 and 27{,}000
    (r"(?<!\\)\\[,;:>\ ] | \\hspace\{[^{}]*\} | ~", " "),
    (rf"{WORDS}\s*(?:and|or)\s*\}} | (?<![A-Za-z\\{{])(?:and|or){END}", " , "),
    (r"(?:,\s*){2,}", ", "),
    (rf"{WORDS}\s*\\?%\s*\}} | \b(?:percent(?:age)?|pct)\b | \\%", "%"),
    (r"\\q?quad", " "),
    *((rf"\\(?:{names}){END}", character) for names, character in COMMANDS.items()),
    (rf"\^\s*(?:\{{\s*)?\\circ\s*\}}? | (?:\^\s*|(?<!\s)\s+)?\\degrees?{END}", r"\\degree "),
    (r"\^\s*(?:\\prime | \* | \{\s*(?:\\prime|\*)\s*\})", "'"),
    (r"\\operatorname\*?\s*\{\s*([A-Za-z]+)\s*\}", r"\\\1 "),
    (r"\\mathrm\s*\{\s*([eid])\s*\}", r"\1 "),
    (r"\\(?:mathbf|mathit|mathsf|boldsymbol)\s*\{\s*(\\?[A-Za-z]+)\s*\}", r"\1 "),
    (r"_\{\s*\\\w+\s*\{([^{}]*)\}\s*\}", r"_{\1}"),  # x_{\text{max}}
    (r"\\\\\s*(?=\\end)", ""),  # the end of a matrix's last row
    # The units of 5 \text{ cm}^2 and of 5 cm^2.
    (rf"([\w)}}\]%])\s*{WORDS}(?![^{{}}]*(?:\d|\b(?:{NO_UNIT})\b))[^{{}}]*\}}(?:\^\{{?\d\}}?)?", r"\1 "),
    (rf"(?<=[\d}}%)])\s*{UNIT}(?:\^\{{?\d\}}?)?", " "),
    (r"\\frac\s*(\d)\s*(?=[\d\\{A-Za-z])", r"\\frac{\1}"),  # \frac12: first its top, then its bottom
    (r"(\\frac\{\d+\})\s*(\d)", r"\1{\2}"),
    (r"(?<![\d.^_}])(\d+)\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}", mixed_number),
    (r"(?<![\d.^])(\d+)\ +(\d+)/(\d+)(?![\d.])", mixed_number),
    (r"(?<![\d.])(\d{0,30})\.(\d{0,30})\\overline\s*\{(\d{1,30})\}", repeating_decimal),
    (r"(?<![\d.])(\d{0,30})\.(\d{0,6}?)(\d{1,6}?)\3{2,30}\.\.\.", repeating_decimal),
]
SPELLINGS = [(re.compile(pattern, re.VERBOSE), replacement) for pattern, replacement in SPELLINGS]
PLAIN = re.compile(r"(?!.*\.\.)(?=.*\d)[\d+\-*/().]*")  # arithmetic, which is normal as it is
SPACED_NUMBER = re.compile(r"-?\d{1,3}( \d{3})+(\.\d+)?")


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


WORDS_OF = re.compile(WORDS + r"([^{}]*)\}")


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
