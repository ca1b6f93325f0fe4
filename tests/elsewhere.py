"""A device that is not there: tensors that say they are on CUDA, keep their numbers on the CPU, and refuse to meet others.

    python tests/elsewhere.py train.py --steps 2 --final-problems 8 --out runs/elsewhere        train.py, eval.py, sample.py as on a GPU

What no CPU shows and a GPU ends with, "expected all tensors to be on the same device", ends it here too: a mask, an index or a
random number of the wrong device, anywhere from a checkpoint to a metric.  What it does not show: CUDA's own kernels and graphs
(a step is run again where a graph would be replayed), its memory, its speed; nor a tensor that was left on `meta`.

To torch's C++ the tensors are on `meta`, which needs no driver; Python is told another device.
"""

import contextlib
import os
import runpy
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
import safetensors
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

aten, DEVICE = torch.ops.aten, torch.device("cuda", 0)
BETWEEN = aten._to_copy.default, aten.copy_.default  # devices
INDEXED = aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default
# These do not take a single number of the CPU either.
NO_SCALARS = "index", "gather", "scatter", "cat", "stack", "mm", "bmm", "addmm", "baddbmm", "fused"


class Elsewhere(torch.Tensor):
    device = property(lambda self: DEVICE)
    is_cuda, is_cpu = property(lambda self: True), property(lambda self: False)

    @staticmethod
    def __new__(cls, numbers: torch.Tensor):
        place = dict(strides=numbers.stride(), storage_offset=numbers.storage_offset(), device="meta")
        return torch.Tensor._make_wrapper_subclass(cls, numbers.size(), dtype=numbers.dtype, **place)

    def __init__(self, numbers: torch.Tensor):
        self.numbers = numbers

    def tolist(self):
        return self.numbers.tolist()

    def numpy(self, *_, **__):
        raise TypeError("can't convert a tensor of CUDA to numpy: .cpu() first")

    @classmethod
    def __torch_dispatch__(cls, function, _, args=(), kwargs=None):
        return dispatch(function, args, kwargs or {})


class Mode(TorchDispatchMode):
    """For operations that make a tensor out of none."""

    def __torch_dispatch__(self, function, _, args=(), kwargs=None):
        return dispatch(function, args, kwargs or {})


class Generator(torch.Generator):
    """Of numbers drawn on the CPU, for the device that it was made for.

    An operation is handed another object of the same generator, so a bit of the seed tells the device."""

    CUDA = 1 << 61

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made.bit = cls.CUDA * (torch.device(device).type == "cuda")
        return made.manual_seed(0)

    def manual_seed(self, seed):
        return super().manual_seed(seed | self.bit)

    device = property(lambda self: DEVICE if self.bit else torch.device("cpu"))


def numbers_of(value):
    return value.numbers if isinstance(value, Elsewhere) else value


def refuse_to_mix(function, args, there: list, here: list) -> None:
    """RuntimeError where CUDA would have one: its tensors with those of the CPU, but for single numbers, and its own indices."""
    if function in INDEXED:
        values = [value for value in args[2:3] if isinstance(value, torch.Tensor) and value.dim()]
        mixed = any(isinstance(value, Elsewhere) is not isinstance(args[0], Elsewhere) for value in values)
        mixed = mixed or not isinstance(args[0], Elsewhere)
    else:
        mixed = any(tensor.dim() for tensor in here) or not set(NO_SCALARS).isdisjoint(
            function.overloadpacket.__name__.split("_")
        )
    if mixed and function not in BETWEEN:
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (there, here)]
        raise RuntimeError(f"{function}: tensors of shapes {shapes[0]} are on cuda, and {shapes[1]} on the CPU")


def dispatch(function, args, kwargs):
    """One operation on the numbers; what comes of it is where its tensors were, or where it was asked to be."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    if here := [tensor for tensor in tensors if there and not isinstance(tensor, Elsewhere)]:
        refuse_to_mix(function, args, there, here)
    asked = kwargs.get("device")
    is_there = bool(there) if asked is None else torch.device(asked).type in ("cuda", "meta")
    numbers, named = tree_map(numbers_of, (args, kwargs))
    if asked is not None and is_there:
        named["device"] = torch.device("cpu")
    if (generator := named.get("generator")) and bool(generator.initial_seed() & Generator.CUDA) is not is_there:
        raise RuntimeError(f"{function}: the generator is of another device than its tensor")
    out = function(*numbers, **named)
    if function is aten.scalar_tensor.default or not (is_there or there):
        return out  # a number in a formula is of no device
    if function._schema.is_mutable:  # the tensors that were given, changed
        given = {id(tensor.numbers): tensor for tensor in there}
        return args[0] if function is aten.copy_.default else tree_map(lambda x: given.get(id(x), x), out)
    out = tree_map(lambda x: Elsewhere(x) if is_there and isinstance(x, torch.Tensor) else x, out)
    return return_and_correct_aliasing(function, args, kwargs, out) if there and isinstance(out, Elsewhere) else out


class Recorded:
    """In place of a graph: the step again at every replay, on the capture's own tensors and counts."""

    def replay(self):
        assert self.cache.used == int(self.cache.column) + 1, "Python's count of the columns is the device's"
        used = self.cache.used
        self.hidden.copy_(self.decoder(self.token, self.cache))
        self.cache.used = used


def pretend() -> None:
    """From here on there is a CUDA device, to this process and for good."""
    os.environ["TQDM_DISABLE"] = "1"  # its bars are for who waits

    class Opened(contextlib.nullcontext):
        def __init__(self, file, device):
            super().__init__(self)
            self.keys, self.metadata = file.keys, file.metadata
            self.get_tensor = lambda name: file.get_tensor(name).to(device)

    def to_cpu(tree):
        return tree_map(lambda value: value.numbers.detach() if isinstance(value, Elsewhere) else value, tree)

    def attention(query, key, value, attn_mask=None, is_causal=False, enable_gqa=False):
        if enable_gqa:
            key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        if is_causal:
            attn_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
        return (query @ key.mT / query.shape[3] ** 0.5).masked_fill(~attn_mask, -torch.inf).softmax(-1) @ value

    def as_autocast_has_it(product):
        def cast(*tensors, **named):
            if torch.is_autocast_enabled("cuda"):
                tensors = [t if t is None else t.to(torch.get_autocast_dtype("cuda")) for t in tensors]
            return product(*tensors, **named)

        return cast

    def wide(product):
        return lambda a, b, out_dtype=None: product(a.float(), b.float()) if out_dtype else product(a, b)

    def no_grad(mode=True):  # the views of a tensor made in inference mode cannot be wrapped
        return torch.no_grad()(mode) if callable(mode) else torch.no_grad()

    there = {
        "is_available": lambda: True, "_lazy_init": lambda: None, "empty_cache": lambda: None,
        "is_bf16_supported": lambda *_: True, "mem_get_info": lambda *_: (2**34, 2**34), "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0, "CUDAGraph": Recorded, "device": contextlib.nullcontext,
    }  # fmt: skip
    for name, value in there.items():
        setattr(torch.cuda, name, value)
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    tensor, save, opened, to = torch.tensor, torch.save, safetensors.safe_open, torch.Tensor.to

    def numbered(place):  # a driver knows which device "cuda" is
        return DEVICE if isinstance(place, (str, torch.device)) and torch.device(place).type == "cuda" else place

    torch.Tensor.to = lambda self, *given, **named: to(self, *map(numbered, given), **tree_map(numbered, named))
    torch.tensor = lambda data, device="cpu", **named: tensor(data, **named).to(device)
    torch.save = lambda value, *rest, **named: save(to_cpu(value), *rest, **named)
    safetensors.safe_open = lambda file, framework, device="cpu": Opened(opened(file, framework), device)
    torch.Generator, torch.inference_mode, torch.mm, torch.bmm = Generator, no_grad, wide(torch.mm), wide(torch.bmm)
    F.linear, F.scaled_dot_product_attention = as_autocast_has_it(F.linear), as_autocast_has_it(attention)
    from engine import attention, decoder, draw

    attention.step_kernel = lambda device: None  # kernels are for who has a device
    draw.compiled = decoder.compiled = lambda function, device: function
    really = decoder.Graph.capture

    def capture(self, token):
        column = self.cache.column.clone()
        really(self, token)
        self.cache.column.copy_(column)  # on CUDA a capture runs nothing
        self.graph.cache, self.graph.token = self.cache, self.token
        self.graph.decoder, self.graph.hidden = self.decoder, self.hidden

    decoder.Graph.capture, decoder.capturing = capture, contextlib.nullcontext


def command(script: str, *words: str) -> None:
    sys.argv[:] = [script, *words]
    with Mode():
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    pretend()
    command(*sys.argv[1:])
