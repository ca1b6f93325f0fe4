r"""What a word behind a number means: a unit, a factor, or neither. Part of the verifier's second stage; see verify.py.

`mark` rewrites the unit of `5 \text{ cm}^2` to the postfix `\unit{cm^2}`, which the grammar reads, and `3 million` to a
product. Every other word stays, as a factor without a value: 5 below zero is not 5. A bare unit needs a digit and a space
in front and nothing behind: 2mg and 2W^2 are products of variables.

>>> mark(r"5 \text{ cm}^2"), mark("273 bags"), mark("2mg"), mark("3 million")
('5\\unit{cm^2}', '273\\unit{bags}', '2mg', '3*1000000')
>>> read("km/h") == read("kilometers per hour"), read("bags"), read("below zero")
(True, (Fraction(1, 1), (('bag', 1),)), None)
"""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from functools import lru_cache

SIZES = """
length: m meter metre 1, mm millimeter millimetre .001, cm centimeter centimetre .01, km kilometer kilometre 1000
length: in inch .0254, ft foot feet .3048, yd yard .9144, mi mile 1609.344
time: s sec second 1, min minute 60, h hr hour 3600, day 86400, week 604800
mass: g gram 1, mg milligram .001, kg kilogram 1000, lb pound 453.59237, oz ounce 28.349523125
volume: L l liter litre 1, mL ml milliliter millilitre .001
money: dollar $ 1, cent ¢ .01
energy: J joule 1, kJ kilojoule 1000
degree: deg degree 1
radian: rad radian 1
month: month 1, yr year 12
"""
NAMED = "W N Pa Hz V K MB mol watt newton pascal hertz volt kelvin celsius fahrenheit degC degF euro € £ ¥ yuan yen"
NAMED += " people men women children mice fish sheep geese teeth dice"  # plurals without an s
UNITS: dict[str, tuple[str, Fraction]] = {name: (name, Fraction(1)) for name in NAMED.split()} | {
    "unit": ("", Fraction(1))
}
for kind, entries in (line.split(":") for line in SIZES.strip().splitlines()):
    for *names, size in map(str.split, entries.split(",")):
        UNITS |= dict.fromkeys(names, (kind, Fraction(size)))
UNITS |= {name + ending: unit for name, unit in UNITS.items() if len(name) > 1 for ending in ("s", "es")}
BARE = " cm mm km kg g m ft in yd mi lb oz hr min sec mph kph mL ml "  # short, and yet units without \\text
FACTORS = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
# Words that make a phrase mean something else than so many of its noun, and words in -s that are no plural nouns.
MEANING = """plus minus times over divided by less than more most least fewer or and not no of to from at out up half
halves third thirds quarter quarters fourths fifths sixths sevenths eighths ninths tenths hundredths hundreds thousands
millions billions dozens tens ones twos threes is as was has loss losses gross gains pass versus unless always perhaps
across besides towards downwards upwards forwards backwards leftwards rightwards except if when all any every alphas betas
gammas deltas thetas twice pairs couples percentages"""
COMMAND = r"\\(?:text[a-z]*|mbox|hbox|mathrm|rm)"
TEXT = rf"{COMMAND}\s*\{{(?:[^{{}}]|\{{[^{{}}]*\}}){{0,80}}\}}"
BETWEEN = r"[\s/~*]|\\cdot|\\[ ,;]"
PHRASES = [  # units in \text, bare ones, and Chinese ones
    re.compile(rf"(?<=[\w)}}\]%])(?:{BETWEEN})*{TEXT}(?:{BETWEEN}|[.^-]|\{{-?\d\}}|(?<=\^)\d|{TEXT})*"),
    re.compile(
        r"(?<=[\d})%])\s+([A-Za-z]+\.?(?:[ /]+[A-Za-z]+\.?){0,4}(?:\^\{?\d\}?)?)(?=\s*(?:$|[.,;)\]=]|\\l(?:and|or)))"
    ),
    re.compile(r"(?<=[\d}])\s*([\u4e00-\u9fff]{1,3})(?=\s*$)"),
]


@lru_cache(maxsize=4096)
def read(phrase: str) -> tuple[Fraction, tuple] | None:
    """The size of a unit and its dimensions with their powers; None for words that are no unit."""
    words = re.findall(r"[^\W\d_]+|[$€£¥¢]|\^-?\d+|/", phrase.replace("mph", "mi/hr").replace("kph", "km/hr"))
    size, powers, sign, pending, last = Fraction(1), Counter(), 1, 1, None
    for word in words:
        if word in ("/", "per"):
            sign = -1
        elif word in ("square", "sq", "cubic", "cu"):
            pending = POWERS[word]
        elif word in UNITS or (last and (word[0] == "^" or word in POWERS)):
            is_power = word not in UNITS
            power = sign * ((int(word[1:]) if word[0] == "^" else POWERS[word]) - 1 if is_power else pending)
            last, pending = last if is_power else UNITS[word], 1
            if abs(power) > 9:
                return None
            powers[last[0]] += power
            size *= last[1] ** power
        else:
            return noun(words)
    del powers[""]
    return (size, tuple(sorted((name, power) for name, power in powers.items() if power))) if words else None


def noun(words: list[str]) -> tuple[Fraction, tuple] | None:
    """The unit of "yellow coins": a plural noun, with nothing before it that changes the number."""
    last = words[-1]
    if "\u4e00" <= last[0] <= "\u9fff":
        return None if set(last) & set("万亿千百十半倍分折点") else (Fraction(1), ((last, 1),))
    is_plural = last in UNITS or (len(last) > 3 and last.endswith("s") and not last.endswith(("ss", "us", "is")))
    if (
        not is_plural
        or len(last) < 2
        or not all(word.isalpha() and word.lower() not in MEANING.split() for word in words)
    ):
        return None
    return Fraction(1), ((last.lower().removesuffix("s"), 1),)


def mark(text: str) -> str:
    """The text with its units as a postfix."""
    for pattern in PHRASES if not text.isascii() else PHRASES[:2]:
        text = pattern.sub(marked, text)
    return text


def marked(match: re.Match) -> str:
    phrase = re.sub(rf"{COMMAND}\b|\\cdot|[{{}}~*.]|\\[ ,;]", " ", match[0])
    phrase = " ".join(re.sub(r"\s*([/^])\s*", r"\1", phrase).split())
    factor, _, rest = phrase.partition(" ")
    if factor in FACTORS and (not rest or read(rest)):
        return f"*{FACTORS[factor]}" + (f"\\unit{{{rest}}}" if rest else "")
    first = re.split(r"[ /^]", phrase)[0]
    is_short = "\\" not in match[0] and first.isascii() and len(first) < 4
    if is_short and (f" {first} " not in BARE or not match.string[match.start() - 1].isdigit()):
        return match[0]
    return f"\\unit{{{phrase}}}" if read(phrase) else match[0]
