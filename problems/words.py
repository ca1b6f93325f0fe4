"""Generated arithmetic word problems of n steps, for a real language model: the answer is one line of equations.

    Nora has 5 boxes with 71 shells in each. She gives 28 of them to Omar. How many shells does Nora have now?
    ->   71*5=355, 355-28=327. #### 327

Three worked examples stand before the problem, so that a base model too knows what is wanted, and a newline ends the answer.
The model chooses the equations (operands and operators) and computes their results.  A completion is right if the number
after `####` is; its equations are not checked.  GSM8K in the same form is a template: `--template problems/one-line.txt`.
"""

import random
import re

from problems.problem import Problem, Task, distinct

NAMES = {
    "Nora": "She", "Omar": "He", "Lena": "She", "Hugo": "He", "Mina": "She", "Ivan": "He", "Ruth": "She", "Theo": "He",
    "Alma": "She", "Felix": "He", "Greta": "She", "Jonas": "He", "Vera": "She", "Pablo": "He", "Selma": "She", "Anton": "He",
}  # fmt: skip
EXAMPLE_NAMES = {"Kim": "She", "Lou": "He", "Zoe": "She", "Ben": "He"}  # of no problem
THINGS = (
    "shells",
    "stamps",
    "pencils",
    "apples",
    "coins",
    "cards",
    "beads",
    "books",
    "eggs",
    "buttons",
    "nuts",
    "stones",
)
HOLDERS = ("boxes", "bags", "jars", "baskets", "crates", "drawers")
PATTERNS = {
    "+": (
        "{she} buys {b} more.",
        "{other} gives {name} {b} more.",
        "{she} finds {b} more at home.",
        "On Friday {she} collects another {b}.",
    ),
    "-": (
        "{she} gives {b} of them to {other}.",
        "{she} sells {b} of them.",
        "{she} loses {b} of them.",
        "{other} borrows {b} of them.",
    ),
    "*": (
        "A month later {she} has {b} times as many.",
        "{she} goes on until {she} has {b} times that number.",
    ),
    "/": (
        "{she} splits them equally into {b} piles and keeps only one pile.",
        "{she} shares them equally among {b} people, of whom {name} is one.",
    ),
}
MOST_STEPS = 6
LARGEST = 999  # of any value on the way
ANSWER = re.compile(r"#### (-?[0-9]{1,9})")
PROBLEM = re.compile(r"[A-Z][a-z]+ has [0-9]+ .*How many [a-z]+ does [A-Z][a-z]+ have now\?")


class Words(Task):
    name, stops = "words", ("\n",)

    def problems(self, split, count, variant=""):
        """`variant` is the number of steps, 3 without one."""
        steps = variant or "3"
        if not steps.isdigit() or not 1 <= int(steps) <= MOST_STEPS:
            raise ValueError(f"words takes 1 to {MOST_STEPS} steps, as in words:3")

        def one(draw: random.Random) -> tuple[str, Problem]:
            question, line = draw_problem(draw, int(steps))
            return question, Problem(question, answer(line), self.name)

        return distinct(one, split, count, f"words {split} {int(steps)}")

    def reward(self, problem, text):
        """1.0 where the number after `####`, which ends the line, is the answer."""
        return float(answer(text) == problem.answer)

    def recognises(self, text):
        return bool(PROBLEM.fullmatch(text))

    def prompt(self, problem):
        return prompt(problem, steps_of(problem))

    def longest(self, problem):
        """As many as characters, of which a token has at least one."""
        return steps_of(problem.problem) * len("999-30=969, ") + len(" #### 999\n")

    def classes(self, text):
        return classes(text)


def steps_of(problem: str) -> int:
    """The equations that a problem asks for: one a sentence, but for the question and a beginning without boxes.

    >>> steps_of("Nora has 5 boxes with 21 shells in each. She gives 8 of them to Omar. How many shells does Nora have now?")
    2
    """
    return problem.count(". ") - 1 + problem.count(" in each.")


def draw_problem(draw: random.Random, steps: int, names: dict[str, str] = NAMES) -> tuple[str, str]:
    """A question of `steps` equations and the line that answers it; each value is a whole number from 1 to `LARGEST`.

    >>> draw_problem(random.Random(2), 1)
    ('Omar has 16 stamps. A month later he has 4 times as many. How many stamps does Omar have now?', '16*4=64. #### 64')
    """
    name, other = draw.sample(list(names), 2)
    thing, value, she, last = draw.choice(THINGS), draw.randint(5, 30), names[name], ""
    sentences, equations = [f"{name} has {value} {thing}."], []
    if draw.random() < (0.25 if steps == 1 else 0.5):
        b, last = draw.randint(2, 5), "*"
        sentences = [f"{name} has {b} {draw.choice(HOLDERS)} with {value} {thing} in each."]
        equations, value = [f"{value}*{b}={value * b}"], value * b
    while len(equations) < steps:
        last, b = draw_step(draw, value, last)
        result = {"+": value + b, "-": value - b, "*": value * b, "/": value // b}[last]
        sentence = draw.choice(PATTERNS[last]).format(she=she.lower(), name=name, other=other, b=b)
        sentences.append(sentence[0].upper() + sentence[1:])
        equations.append(f"{value}{last}{b}={result}")
        value = result
    question = " ".join([*sentences, f"How many {thing} does {name} have now?"])
    return question, f"{', '.join(equations)}. #### {value}"


def draw_step(draw: random.Random, value: int, last: str) -> tuple[str, int]:
    """An operation that is not the last one again, and its second operand."""
    possible = {
        "+": list(range(2, 31)),
        "-": list(range(2, min(value, 31))),
        "*": [b for b in range(2, 6) if value * b <= LARGEST],
        "/": [b for b in range(2, 6) if value % b == 0 and value > b],
    }
    operation = draw.choice([o for o, operands in possible.items() if operands and o != last])
    return operation, draw.choice(possible[operation])


def prompt(question: str, steps: int = 3) -> str:
    """Three worked examples of `steps` steps, always the same, and the question.

    >>> print(prompt("How many?", 1))
    Question: Ben has 14 cards. On Friday he collects another 30. How many cards does Ben have now?
    Answer: 14+30=44. #### 44
    <BLANKLINE>
    Question: Ben has 2 bags with 18 coins in each. How many coins does Ben have now?
    Answer: 18*2=36. #### 36
    <BLANKLINE>
    Question: Kim has 26 eggs. She shares them equally among 2 people, of whom Kim is one. How many eggs does Kim have now?
    Answer: 26/2=13. #### 13
    <BLANKLINE>
    Question: How many?
    Answer:
    """
    examples = [draw_problem(random.Random(f"j {number}"), steps, EXAMPLE_NAMES) for number in range(3)]
    return (
        "".join(f"Question: {asked}\nAnswer: {line}\n\n" for asked, line in examples) + f"Question: {question}\nAnswer:"
    )


def answer(text: str) -> str | None:
    """The number after `####` at the end of a line; None where there is none.

    >>> [answer(text) for text in (" 71*5=355, 355-28=327. #### 327", " 71*5=355. ####", " 5. #### 5 or 6")]
    ['327', None, None]
    """
    found = ANSWER.fullmatch(text.rstrip()[max(text.rfind("####"), 0) :])
    return None if found is None else found[1]


def classes(text: str) -> list[str]:
    """What each character of a completion is: a choice (operand, operator), a computation (result), or form (format).

    >>> classes("17-5=12")
    ['operand', 'operand', 'operator', 'operand', 'format', 'result', 'result']
    """
    kinds, in_result, before = [], False, ""
    for character in text:
        if character.isdigit():
            kinds.append("result" if in_result else "operand")
        elif character in "+-*/" and before.isdigit():
            kinds.append("operator")
        else:
            kinds.append("format")
            in_result = character in "=#" or in_result and character != ","
        before = character
    return kinds
