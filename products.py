"""Products of states and weights: torch's own, and on a CPU oneDNN's where they are faster.

Every build of torch for x86 holds two libraries that multiply float32 matrices: MKL, which it takes, and oneDNN.  Of an AMD
processor's 512-bit registers MKL uses half; oneDNN uses them whole, and is about twice as fast, forward and backward
(BENCHMARKS.md).  And oneDNN takes weights packed, once for all steps of a rollout, on any of these processors.

    linear     x W^T + b, differentiable; F.linear wherever oneDNN is not known to be faster
    Linear     the layer, whose product is `linear`
    Product    the layer as sampling uses it: its weights packed
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

WORTH_IT = 2**20  # multiplications from which on oneDNN's longer call, some 8 us, is made up for


def has_onednn() -> bool:
    """Whether its two operations are there, which are what torch.compile makes of a layer."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@functools.cache
def prefers_onednn() -> bool:
    """Whether this is a processor whose registers MKL uses by half."""
    describe = getattr(torch.cpu, "get_capabilities", dict)  # not in every torch
    amd = "AMD" in str(describe().get("cpu_name"))
    return amd and has_onednn() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in), weight (out, in) or as oneDNN has packed it -> x W^T + b (..., out), of any strides, in float32."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in), weight (out, in), bias (out,) -> x W^T + b (..., out)."""
    large = x.numel() * len(weight) >= WORTH_IT and prefers_onednn()
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if not (large and plain):
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
        rows, of_x, of_weight, of_bias = gradient.flatten(0, -2), None, None, None
        if context.needs_input_grad[0]:
            of_x = by_onednn(gradient, weight.t())
        if context.needs_input_grad[1]:
            of_weight = by_onednn(rows.t(), x.flatten(0, -2).t())
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
        if self.weight is None or self.packed is not None and len(x) * self.size >= WORTH_IT:
            return by_onednn(x, self.packed, self.bias)
        return F.linear(x, self.weight, self.bias)
