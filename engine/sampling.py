"""The fast engine of sample.generate.  sample.PlainEngine is the one to read, and tests/test_engine.py compares the two.

prefill    read each prompt once for all its samples                                           attention.py
step       append one token to each row, through fewer products; on CUDA replay a graph         decoder.py
unembed    logits, from weights in the dtype of computation                                     decoder.py
draw       draw a token in few passes over the logits                                           draw.py
drop       remove finished rows; on CUDA only every 16 steps, because each check waits for the device
"""

import torch
from torch import Tensor

from engine.attention import Cache
from engine.decoder import Decoder, Graph, can_capture
from engine.draw import draw_token

# Prompt tokens in one forward pass.  On a CPU the activations should fit its cache.  On a GPU those of 512 long prompts would not
# fit its memory.
PROMPT_TOKENS_AT_ONCE = {"cpu": 2**11, "mps": 2**13, "cuda": 2**15}
WORTH_SHARING = 16  # tokens with which all prompts begin


class FastEngine:
    draw = staticmethod(draw_token)

    def __init__(
        self, transformer, prompts: list[list[int]], samples: int, max_new_tokens: int, layer=None, eager=False
    ):
        """`layer`: the policy reads the state after so many layers.  `eager`: remove finished rows at once, also on CUDA."""
        device, longest = transformer.device, max(map(len, prompts))
        self.transformer, self.samples, self.layer = transformer, samples, layer
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.tokens = torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt in prompts], device=device)
        self.on_cuda, self.decoder = can_capture(device), Decoder(transformer, layer)
        # On CUDA, check for finished rows every 16 steps: each check synchronises.  Remove them only when they are more than a
        # fifth: each removal captures a new graph.
        self.patience, self.enough = (16, 0.8) if self.on_cuda and not eager else (1, 1.0)
        stride = 256 if self.on_cuda else 1
        self.cache = Cache(self.lengths, samples, max_new_tokens, self.decoder.dtype, stride=stride)
        self.decode = Graph(self.decoder, self.cache) if self.on_cuda else lambda token: self.decoder(token, self.cache)
        self.unembed = self.decoder.unembed
        self.steps, self.last_step = 0, max_new_tokens
        self.inner: Tensor | None = None

    def prefill(self) -> Tensor:
        """h_1 (B, d_model), from which the first token of each row is drawn."""
        at_once = max(1, PROMPT_TOKENS_AT_ONCE[self.tokens.device.type] // self.tokens.shape[1])  # prompts
        last, inner, common = [], [], self.common_tokens()
        with self.transformer.autocast():
            if common:
                self.cache.begin_with(self.transformer, self.tokens[:1, :common])
            for tokens, length in zip(self.tokens.split(at_once), self.lengths.split(at_once)):
                row = torch.arange(len(tokens))
                last.append(self.transformer(tokens[:, common:], self.cache)[row, length - 1 - common])
                if self.layer is not None:
                    inner.append(self.transformer(tokens, layers=self.layer)[row, length - 1])
        hidden, inner = (torch.cat(x).repeat_interleave(self.samples, dim=0) if x else None for x in (last, inner))
        return self.keep(hidden, inner)

    def common_tokens(self) -> int:
        """How many tokens all prompts begin with (a system turn, few-shot examples), where reading them once pays; else 0."""
        shortest = int(self.lengths.min()) - 1  # each prompt keeps a token of its own
        same = (self.tokens[:, :shortest] == self.tokens[:1, :shortest]).all(0)
        common = shortest if same.all() else int(same.long().argmin())
        return common if common >= WORTH_SHARING and len(self.tokens) > 1 else 0

    def step(self, token: Tensor) -> Tensor:
        """Append token (n,) to each row -> h_t (n, d_model), from which the next one is drawn."""
        return self.keep(self.decode(token), self.decoder.inner)

    def keep(self, hidden: Tensor, inner: Tensor | None) -> Tensor:
        """Convert to the dtype in which the rollout stores `reads`.  Copy what a graph would overwrite."""
        hidden = hidden.to(self.decoder.dtype, copy=self.on_cuda)
        self.inner = hidden if inner is None else inner.to(self.decoder.dtype, copy=self.on_cuda)
        return hidden

    def drop(self, going: Tensor) -> Tensor | None:
        """Remove finished rows, where going (n,) is False -> the places of the rows that stay; None: all stay for now."""
        self.steps += 1
        if self.steps % self.patience and self.steps < self.last_step:
            return None
        left = going.nonzero()[:, 0]
        if len(left) > 0 and len(left) >= self.enough * len(going):
            return None
        if len(left):
            self.cache.keep(left)
        return left
