"""What Countdown and the modular task share: an answer is a trace of steps, such as `3*5=15,15+7=22;`."""

import functools

import verify
from problems.problem import Task


@functools.lru_cache(maxsize=1 << 16)  # a few thousand equations make up nearly all traces
def equation_holds(left: str, right: str) -> bool:
    return verify.is_equivalent(left, right)


def trace_classes(text: str) -> list[str]:
    """The class of each character: a choice (operand, operator), a computation (result), or form (format).

    >>> trace_classes("3*5=15;")
    ['operand', 'operator', 'operand', 'format', 'result', 'result', 'format']
    """
    classes, in_result = [], False
    for character in text:
        if character in "+-*":
            classes.append("operator")
        elif character.isdigit():
            classes.append("result" if in_result else "operand")
        else:
            classes.append("format")
            in_result = character == "="
    return classes


class TraceTask(Task):
    """A task whose answers are traces: `STEP` matches (left, operation, right, result), `OPERATIONS` compute."""

    STEP, OPERATIONS = None, {}

    def classes(self, text):
        return trace_classes(text)

    def steps(self, problem, text):
        for match in self.STEP.finditer(text):
            left, operation, right, _ = match.groups()
            yield match, self.OPERATIONS[operation](int(left), int(right))
