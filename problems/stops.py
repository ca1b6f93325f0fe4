"""Texts that end a completion, such as a newline behind few-shot examples.

A token may hold more than the stop text (".\\n\\n"), and a stop text may need several tokens.  `Stop` follows every row through
the bytes of its tokens, so it finds both.
"""

import torch
from torch import Tensor


def ids_with(vocabulary, texts: tuple[str, ...]) -> set[int]:
    """The tokens that hold a whole stop text.  For a stop of one byte, such as a newline, there are no other ends."""
    wanted = [text.encode() for text in texts]
    return {i for i in range(vocabulary.vocab_size) if any(stop in vocabulary.token_bytes(i) for stop in wanted)}


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text in front of the first stop.

    >>> cut("42\\nProblem: ...", ("\\n",)), cut("42", ("\\n",))
    ('42', '42')
    """
    return text[: min((place for place in map(text.find, stops) if place >= 0), default=len(text))]


class Stop:
    """The ends of completions: `eos_ids`, and texts that may begin in one token and end in another.

    The state of a row is the longest end of its text that begins a stop.  `table[state, token]` is the state after one more
    token, so a step is one lookup for all rows, on the device.
    """

    def __init__(self, vocabulary, eos_ids: set[int], texts: tuple[str, ...]):
        stops = [text.encode() for text in texts]
        begun = sorted({stop[:length] for stop in stops for length in range(len(stop))} | {b""}, key=len)
        number, self.ended_state = {begin: i for i, begin in enumerate(begun)}, len(begun)
        pieces = [vocabulary.token_bytes(i) for i in range(vocabulary.vocab_size)]

        def after(begin: bytes, piece: bytes) -> int:
            text = begin + piece
            if any(stop in text for stop in stops):
                return self.ended_state
            return next(number[b] for b in reversed(begun) if text.endswith(b))

        # One row a state, the ended one too; one column more than tokens, for ids that models pad their vocabulary with.
        table = [[after(begin, piece) for piece in pieces] + [number[begin]] for begin in begun]
        self.table = torch.tensor([*table, [self.ended_state] * (len(pieces) + 1)])
        self.table[:, sorted(i for i in eos_ids if i < len(pieces))] = self.ended_state
        self.states = torch.zeros(0, dtype=torch.long)

    def begin(self, rows: int, device) -> None:
        """Before the first token of `rows` completions."""
        self.table, self.states = self.table.to(device), torch.zeros(rows, dtype=torch.long, device=device)

    def ended(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """(n,) bool: whether these rows (n,), having drawn these tokens (n,), are at their end."""
        column = tokens.clamp(max=self.table.shape[1] - 1)
        self.states[rows] = self.table[self.states[rows], column]
        return self.states[rows] == self.ended_state
