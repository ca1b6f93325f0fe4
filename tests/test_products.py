"""Products by oneDNN are torch's own, and so are their gradients; where they are not known to be faster torch's are taken."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import model
from engine import products

ROOT = Path(__file__).resolve().parent.parent
needs_onednn = pytest.mark.skipif(not products.has_onednn(), reason="this torch has no oneDNN")


@pytest.fixture
def calls(monkeypatch):
    """On a processor that prefers oneDNN, whatever this one is; the shapes of what oneDNN is given."""
    seen, by_onednn = [], products.by_onednn
    monkeypatch.setattr(products, "prefers_onednn", lambda: True)
    monkeypatch.setattr(products, "WORTH_IT", 0)
    monkeypatch.setattr(products, "by_onednn", lambda x, *rest: (seen.append(tuple(x.shape)), by_onednn(x, *rest))[1])
    return seen


@needs_onednn
@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=2), st.integers(1, 40), st.integers(1, 40), st.booleans(),
    st.booleans(), st.integers(0, 2**32),
)  # fmt: skip
def test_a_product_and_its_gradients(rows, inner, outer, has_bias, strided, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        x = torch.randn(*shape, generator=generator)
        return (
            x.transpose(0, -1).contiguous().transpose(0, -1) if strided else x
        )  # the same numbers, laid out otherwise

    leaves = [draw(*rows, inner), draw(outer, inner)] + ([draw(outer)] if has_bias else [])
    gradient = draw(*rows, outer)
    inputs = [leaf.requires_grad_() for leaf in leaves]
    made = products.Multiply.apply(*inputs, *([] if has_bias else [None]))
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = F.linear(*exact)
    torch.testing.assert_close(made.double(), expected, rtol=1e-4, atol=1e-4)
    wanted = torch.autograd.grad(expected, exact, gradient.double())
    for got, want in zip(torch.autograd.grad(made, inputs, gradient), wanted):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_a_frozen_side_gets_no_gradient(calls):
    x, layer = torch.randn(3, 8, requires_grad=True), products.Linear(8, 5)
    layer.requires_grad_(False)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(3, 8))
    assert layer.weight.grad is None and len(calls) == 2, "the forward product and one back"
    layer.requires_grad_(True)
    layer(torch.ones(3, 8)).sum().backward()
    torch.testing.assert_close(layer.weight.grad, torch.full((5, 8), 3.0))
    torch.testing.assert_close(layer.bias.grad, torch.full((5,), 3.0))
    assert len(calls) == 4, "nobody asked for the gradient of x"


@needs_onednn
def test_a_model_learns_the_same_by_either(calls, monkeypatch):
    """Every weight's gradient, and the prompt's reading without one."""
    torch.manual_seed(0)
    transformer = model.Transformer(model.Config(97, 24, 2, 4, 2, 8, 48, 64, qkv_bias=True))
    tokens = torch.randint(97, (3, 11))

    def gradients():
        transformer.zero_grad()
        transformer.unembed(transformer(tokens)).log_softmax(-1)[..., 7].sum().backward()
        return {name: p.grad.clone() for name, p in transformer.named_parameters()}

    ours = gradients()
    assert len(calls) == 3 * (7 * 2 + 1), "each of the 7 products of a layer, and the unembedding, forward and two back"
    with torch.inference_mode():
        assert transformer(tokens).isfinite().all() and len(calls) == 3 * 15 + 14
    monkeypatch.setattr(products, "prefers_onednn", lambda: False)
    for name, expected in gradients().items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-5, msg=name)
    assert len(calls) == 3 * 15 + 14


@needs_onednn
def test_what_is_not_float32_or_is_small_is_torchs(calls, monkeypatch):
    layer, x = products.Linear(8, 5), torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64 and not calls
    layer.float()
    monkeypatch.setattr(products, "WORTH_IT", 3 * 8 * 5)
    layer(x[:2])
    assert not calls
    layer(x)
    assert calls == [(3, 8)]


@needs_onednn
@torch.no_grad()
@pytest.mark.parametrize("prefers", [False, True])
def test_what_is_packed(prefers, monkeypatch):
    """Large weights always; small ones where oneDNN is faster by itself, and then for many rows."""
    monkeypatch.setattr(products, "prefers_onednn", lambda: prefers)
    weight, bias = torch.randn(1024, 256), torch.randn(1024)
    large, small = products.Product(weight, bias), products.Product(weight[:1023], bias[:1023])
    assert large.weight is None and small.weight is not None, "the weights of the one are held once, packed"
    assert (small.packed is not None) == prefers
    seen, by_onednn = [], products.by_onednn
    monkeypatch.setattr(products, "by_onednn", lambda x, *rest: (seen.append(len(x)), by_onednn(x, *rest))[1])
    for rows in (1, 3, 5, 64):
        expected = F.linear(x := torch.randn(rows, 256), weight, bias)
        torch.testing.assert_close(large(x), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(small(x), expected[:, :1023], rtol=1e-4, atol=1e-4)
    assert seen == ([1, 3, 5, 5, 64, 64] if prefers else [1, 3, 5, 64])


@needs_onednn
@torch.no_grad()
def test_shapes_repeat(calls):
    """Each shape costs oneDNN 0.4 ms, and memory: of 500 numbers of rows a step makes a few dozen."""
    product = products.Product(torch.randn(20, 30))
    for rows in range(1, 500):
        x = torch.randn(rows, 30)
        torch.testing.assert_close(product(x), F.linear(x, product.weight), rtol=1e-4, atol=1e-4)
    assert len(calls) == 499 and len(set(calls)) < 60
    assert all(0 <= shape[0] - rows < max(2, rows / 8) for rows, shape in zip(range(1, 500), calls))


@needs_onednn
def test_a_bias_may_lie_anywhere(calls):
    x, weight, bias = torch.randn(3, 8), torch.randn(5, 8), torch.randn(10)
    for laid_out in (bias[::2], bias[:1].expand(5), bias.flip(0)[3:8]):
        torch.testing.assert_close(products.linear(x, weight, laid_out), F.linear(x, weight, laid_out))
    assert len(calls) == 3


@needs_onednn
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8)])
def test_gradients_of_gradients(shape, calls):
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(5, 8, requires_grad=True)

    def second(product, one, other):
        (first,) = torch.autograd.grad((product(x, weight) ** 2).sum(), one, create_graph=True)
        return torch.autograd.grad((first**2).sum(), other)[0]

    for pair in ((x, weight), (weight, x)):
        torch.testing.assert_close(second(products.linear, *pair), second(F.linear, *pair), rtol=1e-4, atol=1e-4)
    assert calls


MANY_SHAPES = """
import resource, sys, torch, products
torch.set_num_threads(1)
products.prefers_onednn = lambda: sys.argv[1] == "oneDNN"
products.WORTH_IT = 0
layer = products.Linear(128, 128)
for rows in range(1, 1001):
    layer(torch.zeros(rows, 128)).sum().backward()
    if rows == 200:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@needs_onednn
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_many_shapes_do_not_fill_the_memory():
    command = [sys.executable, "-c", MANY_SHAPES, "oneDNN"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 200, "MiB; of all shapes kept it would be 600"


@pytest.fixture
def asked_anew():
    products.prefers_onednn.cache_clear()
    yield
    products.prefers_onednn.cache_clear()


ZEN5 = {"cpu_name": "AMD EPYC", "avx512_vp2intersect": True}


@torch.no_grad()
def test_without_onednn_products_are_torchs(monkeypatch, asked_anew):
    monkeypatch.setattr(products, "has_onednn", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: ZEN5, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(products, "by_onednn", None)
    weight, x = torch.randn(1024, 256), torch.randn(64, 256)
    assert torch.equal(products.Product(weight)(x), F.linear(x, weight))
    assert torch.equal(products.linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize(
    ("known", "capability", "mkl", "expected"),
    [
        (ZEN5, "AVX512", True, True),
        (ZEN5, "AVX512", False, False),  # what torch takes instead is not known
        (ZEN5, "AVX2", True, False),  # ATEN_CPU_CAPABILITY
        (ZEN5 | {"avx512_vp2intersect": False}, "AVX512", True, False),  # Zen 4
        (ZEN5 | {"cpu_name": "Intel(R) Core(TM) i7-1165G7"}, "AVX512", True, False),  # which has the instruction too
        ({}, "AVX512", True, False),
        (None, "AVX512", True, False),  # an older torch
    ],
)
def test_which_processors_prefer_onednn(known, capability, mkl, expected, monkeypatch, asked_anew):
    describe = {} if known is None else {"get_capabilities": lambda: known}
    monkeypatch.setattr(products.torch, "cpu", type("cpu", (), {k: staticmethod(v) for k, v in describe.items()}))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(products, "has_onednn", lambda: True)
    assert products.prefers_onednn() == expected
