"""Products by oneDNN are torch's own, and so are their gradients; where they are not known to be faster torch's are taken."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import model
import products

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


@torch.no_grad()
def test_without_onednn_products_are_torchs(monkeypatch):
    monkeypatch.setattr(products, "has_onednn", lambda: False)
    products.prefers_onednn.cache_clear()
    weight, x = torch.randn(1024, 256), torch.randn(4, 256)
    try:
        assert torch.equal(products.Product(weight)(x), F.linear(x, weight))
        assert torch.equal(products.linear(x.repeat(16, 1), weight), F.linear(x.repeat(16, 1), weight))
    finally:
        products.prefers_onednn.cache_clear()


@pytest.mark.parametrize(
    ("name", "capability", "expected"),
    [("AMD EPYC", "AVX512", True), ("AMD Ryzen 7", "AVX2", False), ("Intel(R) Xeon(R)", "AVX512", False), (None, "AVX512", False)],
)  # fmt: skip
def test_which_processors_prefer_onednn(name, capability, expected, monkeypatch):
    describe = {"get_capabilities": lambda: {"cpu_name": name}} if name else {}
    monkeypatch.setattr(products.torch, "cpu", type("cpu", (), {k: staticmethod(v) for k, v in describe.items()}))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(products, "has_onednn", lambda: True)
    products.prefers_onednn.cache_clear()
    assert products.prefers_onednn() == expected
    products.prefers_onednn.cache_clear()
