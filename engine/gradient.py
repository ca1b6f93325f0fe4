"""The fast gradient of rl.token_step and rl.temperature_step; rl.PlainGradient is the one to read.  (tests/test_engine.py)

states           each prompt is read once for all its samples, and nothing is padded                     attention.Packed
micro_batches    rows of like length, or all samples of a prompt, within a budget of tokens              micro_batches.py
total, clip      over several processes                                                                  distributed.py
attempt          where CUDA's memory ends, once more with half the budget, which the run then keeps
"""

import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from engine import distributed
from engine.attention import Packed
from engine.micro_batches import micro_batches, prompts_are_worth_sharing


class FastGradient:
    def __init__(self, micro_batch_tokens: int = 16_384, retries: int = 1):
        """retries=0 where processes gather layers together: one of them cannot try again alone."""
        self.micro_batch_tokens, self.retries = micro_batch_tokens, retries

    def states(self, transformer, rollout) -> Tensor:
        """(N, d_model) h_t of the sampled tokens."""
        with transformer.autocast():
            if prompts_are_worth_sharing(rollout):
                packed = Packed(rollout.tokens, rollout.prompt_lengths, rollout.mask)
                return transformer(packed.tokens, packed)[0].index_select(0, packed.drawing)
            return transformer(rollout.tokens)[:, :-1][rollout.mask[:, 1:]]

    def micro_batches(self, module, rollout) -> Iterator[tuple[Tensor, float]]:
        """(rows, weight); a process with fewer micro-batches than another repeats a row with weight 0, if layers are gathered."""
        return distributed.in_step(module, micro_batches(rollout, self.micro_batch_tokens))

    def total(self, value: Tensor) -> Tensor:
        return distributed.total(value)

    def clip(self, module, max_norm: float) -> float:
        distributed.add_gradients(module)
        return distributed.clip(module, max_norm)

    def attempt(self, gradient):
        """gradient(); OutOfMemoryError where retries are used up.  Micro-batches change no gradient, but for rounding."""
        while True:
            try:
                return gradient()
            except torch.OutOfMemoryError:
                if not self.retries:
                    raise
            # Here, and not in the except clause, whose traceback would hold the tensors that did not fit.
            self.retries, self.micro_batch_tokens = self.retries - 1, max(1, self.micro_batch_tokens // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            print(f"\nout of memory: from here on with --micro-batch-tokens {self.micro_batch_tokens}", file=sys.stderr)
