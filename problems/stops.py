"""Texts that end a completion, such as a newline behind few-shot examples.

A token may hold more than the stop text (".\\n\\n"), and a stop text may need several tokens.  `Stop` follows every row through
the bytes of its tokens, so it finds both.
"""

import torch
from torch import Tensor


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
        fresh = [after(b"", piece) for piece in pieces]
        table = []
        for begin in begun:  # most tokens do not go on with what has begun, and so leave it
            ends = [end for end in begun if end and begin.endswith(end)]
            onward = {stop[len(end)] for end in ends for stop in stops if stop != end and stop.startswith(end)}
            goes_on = [piece[:1] == b"" or piece[0] in onward for piece in pieces]
            row = [after(begin, piece) if on else new for piece, on, new in zip(pieces, goes_on, fresh)]
            table.append([*row, number[begin]])
        self.table = torch.tensor([*table, [self.ended_state] * (len(pieces) + 1)])
        self.table[:, sorted(i for i in eos_ids if i < len(pieces))] = self.ended_state
        self.states = torch.zeros(0, dtype=torch.long)

    def ended(self, step: int, rows: Tensor, tokens: Tensor) -> Tensor:
        """(n,) bool: whether these rows (n,), having drawn these tokens (n,) at this step, are at their end."""
        if step == 0:  # all rows of a new rollout
            self.table = self.table.to(tokens.device)
            self.states = torch.zeros(len(rows), dtype=torch.long, device=tokens.device)
        column = tokens.clamp(max=self.table.shape[1] - 1)
        self.states[rows] = self.table[self.states[rows], column]
        return self.states[rows] == self.ended_state
