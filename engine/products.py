"""Products of states and weights: torch's own, and on a CPU oneDNN's where they are faster.

A build of torch for x86 holds two libraries that multiply float32 matrices: MKL, which it takes, and oneDNN.  Of the 512-bit
registers of AMD's processors MKL uses half; where these are as fast as they are wide (Zen 5), oneDNN is twice as fast, forward and
backward (BENCHMARKS.md).  And oneDNN takes weights packed, once for all steps of a rollout, on any of these processors.

    linear     x W^T + b, differentiable; F.linear wherever oneDNN is not known to be faster
    Linear     the layer, whose product is `linear`
    Product    the layer as sampling uses it: its weights packed

oneDNN writes code for every shape it meets, which takes 0.4 ms, and keeps it.  So it should meet few: `Product` and
attention.Packed round the number of rows up.
"""

import functools
import os

import torch
import torch.nn.functional as F
from torch import Tensor

# Shapes whose code is kept, by oneDNN and by torch: the thousand that they would keep take a GB.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
os.environ.setdefault("LRU_CACHE_CAPACITY", "128")

WORTH_IT = 2**20  # multiplications from which on oneDNN's longer call, some 8 us, is made up for


def has_onednn() -> bool:
    """Whether oneDNN is there, with the two operations that torch.compile makes of a layer."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@functools.cache
def prefers_onednn() -> bool:
    """Whether this is a processor on which oneDNN is known to be faster than what torch takes."""
    known = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch
    zen5 = "AMD" in str(known.get("cpu_name")) and known.get("avx512_vp2intersect")  # which came with Zen 5
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"  # unless somebody has forbidden it
    return bool(zen5 and wide and torch.backends.mkl.is_available() and has_onednn())


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in), weight (out, in) or as oneDNN has packed it, of any strides -> x W^T + b (..., out), in float32."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None if bias is None else bias.contiguous(), "none", [], "")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in), weight (out, in), bias (out,) -> x W^T + b (..., out)."""
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not (plain and x.numel() * len(weight) >= WORTH_IT and prefers_onednn()):
        return F.linear(x, weight, bias)
    return Multiply.apply(x, weight, bias) if torch.is_grad_enabled() else by_onednn(x, weight, bias)


class Multiply(torch.autograd.Function):
    """x W^T + b by oneDNN, whose gradients are two more such products."""

    @staticmethod
    def forward(context, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(x, weight)
        return by_onednn(x, weight, bias)

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = context.saved_tensors
        rows, of_x, of_weight, of_bias = gradient.reshape(-1, gradient.shape[-1]), None, None, None
        if context.needs_input_grad[0]:
            of_x = linear(gradient, weight.t())
        if context.needs_input_grad[1]:  # oneDNN copies `rows` for it
            of_weight = linear(rows.t(), x.reshape(-1, x.shape[-1]).t())
        if context.needs_input_grad[2]:
            of_bias = rows.sum(0)
        return of_x, of_weight, of_bias


class Linear(torch.nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Product:
    """x (n, in) -> x W^T + b (n, out), of weights that stay the same for many steps.

    A CPU's product first packs the weights, which for the few rows of a step takes longer than multiplying.  oneDNN takes
    them packed once; where it is not faster by itself small ones gain nothing.
    """

    SMALL = 2**18

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        self.weight: Tensor | None = weight  # (out, in); None: `packed` is all that is needed
        self.packed: Tensor | None = None
        self.bias, self.size = bias, weight.numel()
        if weight.device.type == "cpu" and weight.dtype == torch.float32 and has_onednn():
            if self.size >= self.SMALL or prefers_onednn():
                self.packed = torch.ops.mkldnn._reorder_linear_weight(weight)
            if self.size >= self.SMALL:
                self.weight = None

    def __call__(self, x: Tensor) -> Tensor:
        count = len(x)
        if self.weight is None:  # the product takes longer than writing its code
            return by_onednn(x, self.packed, self.bias)
        if self.packed is None or count * self.size < WORTH_IT:
            return F.linear(x, self.weight, self.bias)
        return by_onednn(F.pad(x, (0, 0, 0, -count % eighth(count))), self.packed, self.bias)[:count]


def eighth(count: int) -> int:
    """The power of two of which `count` is 8 to 15 times as much, or 1.

    >>> [eighth(count) for count in (5, 15, 16, 100, 512)]
    [1, 1, 2, 8, 64]
    """
    return max(1, 2 ** (count.bit_length() - 4))
