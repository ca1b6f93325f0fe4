"""The fast decoder for sampling: one new token for each row, with the weights of model.py in fewer and larger products.

model.Transformer is the one to read.  `Decoder(transformer)(token, cache)` gives the same hidden states, and tests/test_model.py
compares the two.  Only speed differs:

    q, k and v are one product, and so are gate and up
    weights are in the dtype of computation, so no step converts them

Weights are copied from the float32 master weights at the start of each rollout, which takes as long as one or two steps.  The copy
is freed at the end, so training has the memory and no copy is ever stale.  A CUDA graph keeps some tens of MiB until the next one.

On CUDA a step is captured as a graph and replayed.  A layer is four products with four kernels between them: attention with `Turn`
(attention_kernel.py), `add_norm` twice, and `gated`.  torch.compile writes the last three.
"""

import contextlib
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attention import Cache
from engine.draw import compiled
from engine.products import Product
from model import WideProduct, rotate, waves


def add_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x + delta (n, d), and its RMS norm in `dtype`; weight is (d,)."""
    x = x + delta
    return x, F.rms_norm(x, weight.shape, weight, eps).to(dtype)


def to_unit(x: Tensor, floor: Tensor) -> Tensor:
    """x / hypot(|x|, floor).  With floor = sqrt(d eps) this is the RMS norm x / sqrt(mean x^2 + eps), divided by sqrt(d)."""
    return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor)


class Turn(NamedTuple):
    """Norm (if there is a `scale`) and rotate (if there are waves) queries and keys before attention."""

    scale: Tensor | None  # (head + kv head, d_head) sqrt(d_head) w
    cosine: Tensor | None  # (n, 1, d_head)
    sine: Tensor | None
    floor: Tensor  # () sqrt(d_head eps)

    def __call__(self, heads: Tensor) -> Tensor:
        """heads (n, head + kv head, d_head)."""
        if self.scale is not None:
            heads = to_unit(heads.float(), self.floor) * self.scale
        return heads if self.cosine is None else rotate(heads, self.cosine, self.sine)


def gated(wide: Tensor) -> Tensor:
    """(n, 2 d_mlp) -> silu of the first half times the second."""
    gate, up = wide.chunk(2, dim=-1)
    return F.silu(gate) * up


class Norm:
    """A norm of model.py, in the dtype of the product that reads it.

    On a CPU torch computes an RMS norm in seven operations, and with few rows each call's overhead counts.  `to_unit` has three.
    The remaining factor, `scale` = sqrt(d) w, is multiplied into the weights of the product.  It is None on a GPU and in
    bfloat16, where the product of the weights would round differently from training: there the norm is computed whole.
    """

    def __init__(self, norm: torch.nn.Module, dtype: torch.dtype, device: torch.device):
        self.whole, self.dtype, self.scale = norm, dtype, None
        self.is_rms, self.add_norm = isinstance(norm, torch.nn.RMSNorm), compiled(add_norm, device.type)
        if self.is_rms and norm.eps and (device.type, dtype) == ("cpu", torch.float32):
            size = norm.normalized_shape[0]
            self.scale = size**0.5 * (torch.ones(size) if norm.weight is None else norm.weight)
            self.floor = torch.tensor((size * norm.eps) ** 0.5)

    def __call__(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """x + delta (n, d), and its norm."""
        if self.is_rms and self.scale is None and delta is not None:
            return self.add_norm(x, delta, self.whole.weight, self.whole.eps, self.dtype)
        x = x if delta is None else x + delta
        return x, self.whole(x).to(self.dtype) if self.scale is None else to_unit(x, self.floor)


class Decoder:
    @torch.no_grad()
    def __init__(self, transformer, layer: int | None = None):
        """`layer`: after each call `inner` (n, d_model) is the state after so many layers."""
        self.model, c = transformer, transformer.config
        self.layer, self.inner = layer, None
        self.dtype = transformer.compute_dtype or transformer.embed.weight.dtype
        self.layers, place, self.d_head = [], (self.dtype, transformer.device), c.d_head
        self.gated = compiled(gated, transformer.device.type)
        self.floor = torch.tensor((c.d_head * c.norm_eps) ** 0.5, device=transformer.device)
        for block in transformer.layers:
            a, m = block.attention, block.mlp
            norm, mlp_norm, scale = Norm(block.attention_norm, *place), Norm(block.mlp_norm, *place), None
            if c.qk_norm:  # (head + kv head, d_head)
                scale = torch.cat((a.q_norm.weight.expand(c.n_heads, -1), a.k_norm.weight.expand(c.n_kv_heads, -1)))
                scale = c.d_head**0.5 * scale.float()
            products = (
                self.join(a.q, a.k, a.v, scale=norm.scale),
                self.join(a.o),
                self.join(*filter(None, (m.gate, m.up)), scale=mlp_norm.scale),
                self.join(m.down),
            )
            self.layers.append((norm, scale, mlp_norm, m.gate is None, *products))
        unembedding = transformer.embed if transformer.unembedding is None else transformer.unembedding
        self.unembedding = Product(unembedding.weight.to(self.dtype))

    def join(self, *linears, scale: Tensor | None = None) -> Product:
        """Linear layers that read the same input as one product; `scale` (in,) multiplies their weights."""
        bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears]).to(self.dtype)
        weights = [linear.weight.to(self.dtype) for linear in linears]
        weights = weights if scale is None else [weight * scale for weight in weights]
        return Product(weights[0] if len(weights) == 1 else torch.cat(weights), bias)

    def unembed(self, hidden: Tensor) -> Tensor:
        """hidden (n, d_model) -> logits (n, V), in float32."""
        if self.dtype == torch.float32:
            return self.unembedding(hidden)
        return WideProduct.apply(hidden.to(self.dtype), self.unembedding.weight)

    def __call__(self, token: Tensor, cache: Cache) -> Tensor:
        """token (n,) -> hidden (n, d_model), from which the next token is drawn."""
        positions, model, cosine, sine = cache.extend(), self.model, None, None  # (n,)
        x, delta = model.embed(token), None  # delta: a layer's output, which the next norm adds to x
        if model.position is not None:
            x = x + model.position(positions)
        else:
            angles = positions[:, None, None] * model.frequencies  # (n, 1, d_head / 2)
            cosine, sine = waves(angles)
        for layer, (norm, scale, mlp_norm, gelu, qkv, out, up, down) in enumerate(self.layers):
            x, normed = norm(x, delta)
            heads = qkv(normed).view(len(x), -1, self.d_head)  # queries, keys, values
            mixed = cache.attend(layer, heads, Turn(scale, cosine, sine, self.floor))
            x, normed = mlp_norm(x, out(mixed.to(self.dtype)))
            wide = up(normed)
            delta = down(F.gelu(wide, approximate="tanh") if gelu else self.gated(wide))
            if layer + 1 == self.layer:
                self.inner = x + delta
        return model.norm(x + delta)


def can_capture(device: torch.device) -> bool:
    return device.type == "cuda"


class Graph:
    """A step captured once and replayed: one launch for hundreds of kernels.  A change of shape captures it again.

    The first step of each shape runs without capture, because libraries initialise and kernels compile at their first call."""

    def __init__(self, decoder: Decoder, cache: Cache):
        self.decoder, self.cache = decoder, cache
        self.shape: Any = None
        self.graph: Any = None
        self.hidden: Any = None

    def __call__(self, token: Tensor) -> Tensor:
        """As Decoder.  The next call of any graph on the device overwrites the result, because graphs share memory."""
        shape = (self.cache.version, self.cache.extent(self.cache.used + 1))
        with torch.cuda.device(token.device):  # for cuda:1: kernels, streams and graphs belong to the current device
            if shape != self.shape:
                self.graph, self.hidden, self.shape = None, None, shape
                return self.decoder(token, self.cache)
            if self.graph is None:
                self.capture(token)
            self.token.copy_(token)
            self.graph.replay()
        self.cache.used += 1
        return self.hidden

    def capture(self, token: Tensor) -> None:
        self.graph, self.token, used = torch.cuda.CUDAGraph(), token.clone(), self.cache.used
        with capturing(self.graph):
            self.hidden = self.decoder(self.token, self.cache)
        self.cache.used = used  # capturing runs nothing


# Device -> the stream of its captures, and its last graph, whose memory the next graph takes over.
LAST: dict[int, Any] = {}


@contextlib.contextmanager
def capturing(graph):
    """As torch.cuda.graph, but torch keeps its free memory, which training needs next."""
    device = torch.cuda.current_device()
    if torch.cuda.mem_get_info()[0] < 2**31:  # a capture cannot use memory that torch keeps
        torch.cuda.empty_cache()
    stream, last = LAST.get(device) or (torch.cuda.Stream(), None)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graph.capture_begin(pool=last and last.pool())
        try:
            yield
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    LAST[device] = stream, graph
