"""The fast gradient of rl.token_step and rl.temperature_step.  rl.PlainGradient is the one to read, and tests/test_engine.py
compares the two.

states           read each prompt once for all its samples, without padding                              attention.Packed
micro_batches    rows of similar length, or all samples of a prompt, within a budget of tokens           micro_batches.py
total, clip      sum over several processes                                                              distributed.py
attempt          when memory runs out, try once more with half the budget, and keep it for the run
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
        """Use retries=0 with --shard: processes gather each layer together, so none can try again alone."""
        self.micro_batch_tokens, self.retries = micro_batch_tokens, retries

    def states(self, transformer, rollout) -> Tensor:
        """(N, d_model) h_t of the sampled tokens."""
        with transformer.autocast():
            if prompts_are_worth_sharing(rollout):
                packed = Packed(rollout.tokens, rollout.prompt_lengths, rollout.mask)
                return transformer(packed.tokens, packed)[0].index_select(0, packed.drawing)
            return transformer(rollout.tokens)[:, :-1][rollout.mask[:, 1:]]

    def micro_batches(self, module, rollout) -> Iterator[tuple[Tensor, float]]:
        """(rows, weight) as in rl.PlainGradient; weight 0 occurs only with --shard (distributed.in_step)."""
        return distributed.in_step(module, micro_batches(rollout, self.micro_batch_tokens))

    def total(self, value: Tensor) -> Tensor:
        return distributed.total(value)

    def clip(self, module, max_norm: float) -> float:
        distributed.add_gradients(module)
        return distributed.clip(module, max_norm)

    def attempt(self, gradient):
        """gradient(), which micro-batches change only by rounding.  OutOfMemoryError: no retries are left."""
        while True:
            try:
                return gradient()
            except torch.OutOfMemoryError:
                if not self.retries:
                    raise
            # Not in the except clause: its traceback would keep the tensors that did not fit.
            self.retries, self.micro_batch_tokens = self.retries - 1, max(1, self.micro_batch_tokens // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            print(
                f"\nout of memory: the run continues with --micro-batch-tokens {self.micro_batch_tokens}",
                file=sys.stderr,
            )
