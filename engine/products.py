"""A matrix product whose weights stay the same for many steps.

A CPU packs the weights before it multiplies.  With the few rows of a decode step packing takes longer than the product.  torch's oneDNN
accepts packed weights, so here they are packed once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class Product:
    """x (n, in) -> x W^T + b (n, out); weight (out, in), bias (out,)."""

    SMALL = 2**18  # numbers; packing smaller weights gains nothing

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        self.weight, self.bias, self.packed = weight, bias, None
        on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
        if on_cpu and weight.numel() >= self.SMALL:
            self.packed, self.weight = torch.ops.mkldnn._reorder_linear_weight(weight), None

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed is None:
            return F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
