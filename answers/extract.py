r"""The final answer in a model's text. The verifier's first stage; see verify.py.

`extract_answer` looks behind the thoughts (</think>). It takes the last \boxed, else an <answer> tag, else what follows
"####", else what follows "the answer is", else the last formula. `bare` takes the box or the sentence off an answer.

>>> bare(r"$\boxed{42}$"), bare("Therefore the value is $x + 1$."), bare("There are 4 values of $P$."), bare("42")
('42', '$x + 1$', 'There are 4 values of $P$.', '42')
"""

from __future__ import annotations

import re

from answers.grammar import MAX_LENGTH

BRACE = re.compile(r"(?s)\\.|[{}]")
BARE_TOKEN = re.compile(r"\s*([-\w.]*\w)")
BETWEEN = re.compile(r"(?:\\text\s*\{\s*(?:and|or)\s*\}|\\q?quad|\\[()\[\],; ]|[\s$,;]|and|or|[A-Za-z]\s*=)*")
DOLLAR = re.compile(r"(?<!\\)\$(?=(\d[\d,.]*)([^$]*)(\$\d|\$|\Z))")
AMOUNT = re.compile(r"\\\$\d[\d,]*(?:\.\d+)?")
IS_THE_ANSWER = re.compile(r"(?:^|[\s,])(\$[^$]+\$|[^\s,]+) is (?:the|our|my) (?:final |correct )?answer\W*$")
TITLE = re.compile(r"^[A-Z][A-Za-z ]{3,20}:\s*")
MATH = re.compile(  # a formula: $$..$$, $..$, \(..\), \[..\]; \\[ is a new line, not a formula
    r"""\$\$ [^$]+ \$\$ | (?<!\\)\$ (?:[^$\\]|\\.)+ \$
    | (?<!\\)\\\( (?:[^\\]|\\[^()])+ \\\) | (?<!\\)\\\[ (?:[^\\]|\\[^\[\]])+ \\\]""",
    re.DOTALL | re.VERBOSE,
)
CUE = re.compile(
    r"(?i)\b(?:answer|solution|result|option)s?\b[\s*#\"']*(?:(?:is|are|be|would be|must be)\b(?:\s+(?:therefore|thus|then|simply))?|:|=|(?=\$))"
    r"|\banswers?\b[^.\n$]{0,80}?\b(?:is|are|must be)\b|(?m:^[#*_ ]{0,9}(?:final )?answer[*_: ]{0,9}$)|答案(?:是|为|為|：|:)*|故选[：:]?|Ответ:|R(?:é|e)ponse\s*:|Respuesta:|Antwort:"
)
NEGATION = re.compile(r"(?i)\b(?:not|cannot|can't|isn't|never|wrong)\b")
COPULA = re.compile(
    r"(?i)(\bnot |n't |\bcannot |\bnever )?\b(?:is|are|be|equals?|equal to|get|gives?|obtain|have|has|pays?|remains?|total)\b|=>|[=:]"
)
LEAD = re.compile(r"(?i)^(?:(?:therefore|thus|hence|so|then|finally|exactly|approximately|about)\b[\s,:]*)+")
TAIL = re.compile(r"(?i),\s*as (?:expected|desired|required|claimed|needed|above)\W*$")
SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n|<\||I hope|。|；")
MARKUP = " \t\r\n*:=_`#>"
LONGEST = 10 * MAX_LENGTH  # what is looked at of a text without a box, or of its boxes: a bound keeps long texts cheap


def extract_answer(text: str) -> str | None:
    r"""The final answer in a model's output, None where there is none. The last \boxed counts, even an empty one.

    >>> extract_answer(r"First \boxed{3}. No: $\boxed{\frac{1}{2}}$."), extract_answer(r"It is 5. \boxed{}")
    ('\\frac{1}{2}', None)
    >>> extract_answer("so 6 * 7 = 42 eggs.\n#### 42"), extract_answer("The answer is $x^2$. I hope it is correct.")
    ('42', '$x^2$')
    >>> extract_answer(r"<think>\boxed{40}?</think> It is $42$."), extract_answer("The answer cannot be 42.")
    ('$42$', None)
    """
    if not isinstance(text, str):
        return None
    text = text.rpartition("</think>")[2]
    answer = last_boxes(text)
    if answer is None:
        answer = unboxed(text)
    return answer.strip() or None


def last_boxes(text: str) -> str | None:
    r"""What the last \boxed holds; None: there is no box. Boxes with only "and" or a comma between are one answer."""
    answers, end = [], len(text)
    boxes = {name: text.rfind(name) for name in ("\\boxed", "\\fbox")}
    first = max(0, max(boxes.values()) - LONGEST)
    while len(answers) < 20 and (start := max(boxes.values())) >= first:
        name = max(boxes, key=boxes.get)
        content, stop = braced(text, start + len(name), end)
        gap = text[stop:end] if end - stop < 80 else "too far apart"
        if answers and not (content and re.search("[,;]|and|or|quad", gap) and BETWEEN.fullmatch(gap)):
            break
        answers.insert(0, content)
        end = start
        boxes[name] = text.rfind(name, first, end)
    return ", ".join(answers) if answers else None


def braced(text: str, start: int, end: int) -> tuple[str, int]:
    """The content of the brace group at start (to the line's last, if one is missing) or the token, and its end."""
    end = min(end, start + LONGEST)
    token = BARE_TOKEN.match(text, start, end)
    if token:
        return token[1], token.end()
    depth = 0
    for match in BRACE.finditer(text, start, end):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[start : match.end()].strip()[1:-1], match.end()
    line_end = text.find("\n", start, end)
    last = text.rfind("}", start, line_end if line_end >= 0 else end) + 1 or start
    return text[start:last].strip()[1:-1], last


def unboxed(text: str) -> str:
    """The answer in a tag, after "####" or "the answer is", else the last formula, else "... is 5", else the text if short."""
    text = text[-LONGEST:]  # an answer stands at the end
    if "<answer>" in text:
        return unboxed(text.rpartition("<answer>")[2].partition("</answer>")[0])
    text = DOLLAR.sub(lambda match: "\\$" if is_amount(*match.groups()) else "$", text)
    cues = list(CUE.finditer(text))
    if "####" in text and not (cues and cues[-1].start() > text.rfind("####")):
        return text.rpartition("####")[2].strip(MARKUP).partition("\n")[0].strip(MARKUP)
    if cues and (NEGATION.search(cues[-1][0]) or NEGATION.match(text, cues[-1].end() + 1)):
        return ""
    after = text[cues[-1].end() :][:MAX_LENGTH].lstrip(MARKUP) if cues else ""
    text, cues = (after, cues) if after.strip(MARKUP + '."}') else (text, [])
    formulas, end = list(MATH.finditer(text)), 0
    if cues or len(SENTENCE_END.split(text.strip())) <= 2:
        for formula in formulas:  # those at the start, as far as only "and" or a comma is between them
            end = formula.end() if BETWEEN.fullmatch(text, end, formula.start()) else end
        if cues:
            text = text[:end] or SENTENCE_END.split(text)[0].strip(MARKUP + '"}')
    if end or not is_prose(text):
        text = TAIL.sub("", TITLE.sub("", LEAD.sub("", text.strip(MARKUP))))
        return text if len(text) < MAX_LENGTH else ""
    if formulas and not cues:
        start = formulas[-1].start()
        for before in formulas[-2::-1]:
            between = text[before.end() : start]
            if not BETWEEN.fullmatch(between) or not between.strip(" $"):
                break
            start = before.start()
        return text[start : formulas[-1].end()]
    text = text.strip(MARKUP).rpartition("\n")[2].rstrip(".*` \r")
    if stated := IS_THE_ANSWER.search(text) or list(AMOUNT.finditer(text))[-1:]:
        return stated[1] if isinstance(stated, re.Match) else stated[0][0]
    said = list(COPULA.finditer(text))
    if said:
        return "" if said[-1][1] else text[said[-1].end() :].strip(MARKUP)
    return text if cues else ""


def is_amount(number: str, rest: str, closing: str) -> bool:
    """True for the dollar of "costs $5 and", False for that of $5$ and $5 + x$."""
    return "\\" not in rest and (not closing or closing != "$" or bool(re.search("[A-Za-z]{2}", rest)))


def is_prose(text: str) -> bool:
    """True for running words, outside of formulas, rather than an answer with its unit."""
    found = re.findall(r"(?<![\\A-Za-z{])[A-Za-z]{2,}", MATH.sub(" ", text[-MAX_LENGTH:]))
    return (
        not {"is", "are", "equals", "pays"}.isdisjoint(found)
        or sum(word.lower() not in ("and", "or", "percent") for word in found) >= 3
    )


SENTENCE = re.compile(
    r"(?is)^(?:[^$.]*\b(?:is|are|be|equals?|get|have|obtain|therefore|thus|hence|so|that)\b)?[\s,:]*(FORMULA)(?:\s*(?:is|as)\b[^$]*)?[\s.]*$".replace(
        "FORMULA", r"\$[^$]+\$|\\\(.+?\\\)"
    )
)


def bare(text: str) -> str:
    """An answer without the box or the sentence around it; "" for what is no answer."""
    if not isinstance(text, str) or "\0" in text:
        return ""
    if "\\boxed" in text or "\\fbox" in text:
        text = last_boxes(text)
    elif ("$" in text or "\\(" in text) and is_prose(text):
        sentence = None if CUE.search(text) else SENTENCE.match(text[: 2 * MAX_LENGTH])
        text = unboxed(text) if CUE.search(text) else sentence[1] if sentence and not NEGATION.search(text) else text
    return text.strip()
