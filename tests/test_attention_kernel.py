"""attention_kernel.py on a CPU, by Triton's interpreter: against a slow reading of each row alone, and in whole rollouts.

On a GPU the kernel itself is tested: tests/test_gpu.py."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import model
from engine import decoder

ROOT = Path(__file__).resolve().parent.parent
# Prompts, samples, heads, kv heads, d_head, longest prompt, room for new tokens, columns written, samples in a program, and what
# is done to queries and keys
SHAPES = [
    (3, 4, 4, 2, 24, 70, 90, 66, 0, "normed and rotated"),
    (2, 8, 4, 4, 8, 5, 9, 0, 1, "neither"),
    (2, 5, 8, 2, 32, 130, 140, 70, 2, "rotated"),
    (1, 1, 4, 2, 16, 3, 4, 2, 0, "normed"),
    # More heads to a key than a program has rows for two samples.
    (2, 3, 32, 1, 16, 64, 65, 64, 0, "normed and rotated"),
]


def one_step(
    attend, dtype, device, prompts, samples, heads, kv_heads, d_head, longest, room, column, together, done
) -> None:
    """Some rows have left; in the caches is noise where nothing has been written."""
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 3e-2}[dtype]
    kept = torch.rand(prompts * samples) < 0.8
    kept[0] = True
    slot_of_row = kept.nonzero()[:, 0]
    row_of_slot = torch.full_like(kept, -1, dtype=torch.long)
    row_of_slot[slot_of_row] = torch.arange(len(slot_of_row))
    of_prompt = torch.randint(1, longest + 1, (prompts,))
    prompt_keys, prompt_values = torch.randn(2, prompts * kv_heads, longest, d_head).to(dtype)
    keys, values = torch.randn(2, prompts * kv_heads * samples, room, d_head).to(dtype)
    of_rows = torch.randn(len(slot_of_row), heads + 2 * kv_heads, d_head).to(
        dtype
    )  # as the product of the weights leaves them
    turn = decoder.Turn(
        torch.rand(heads + kv_heads, d_head) + 0.5 if "normed" in done else None,
        *(model.waves(9 * torch.rand(len(slot_of_row), 1, d_head // 2)) if "rotated" in done else (None, None)),
        torch.tensor(0.7),
    )
    query, new_key = turn(of_rows[:, : heads + kv_heads]).to(dtype).split((heads, kv_heads), dim=1)
    new_value = of_rows[:, heads + kv_heads :]
    before = keys.clone(), values.clone()
    given = (
        prompt_keys,
        prompt_values,
        keys,
        values,
        of_prompt[slot_of_row // samples],
        row_of_slot,
        torch.tensor([column]),
    )
    given = [x.to(device) for x in given]
    found = attend(of_rows.to(device), [x if x is None else x.to(device) for x in turn], *given, together).cpu()
    keys, values = given[2].cpu(), given[3].cpu()
    expected_keys, expected_values = before[0].clone(), before[1].clone()
    for row, slot in enumerate(slot_of_row.tolist()):
        prompt, sample = divmod(slot, samples)
        for head in range(heads):
            kv = head // (heads // kv_heads)
            of_all, own = prompt * kv_heads + kv, (prompt * kv_heads + kv) * samples + sample
            expected_keys[own, column], expected_values[own, column] = new_key[row, kv], new_value[row, kv]
            end = int(of_prompt[prompt])
            key = torch.cat((prompt_keys[of_all, :end], expected_keys[own, : column + 1])).float()
            value = torch.cat((prompt_values[of_all, :end], expected_values[own, : column + 1])).float()
            weights = (query[row, head].float() @ key.T / d_head**0.5).softmax(-1)
            read = found[row, head * d_head : (head + 1) * d_head].float()
            torch.testing.assert_close(read, weights @ value, rtol=tolerance, atol=tolerance)
    for now, then, expected in ((keys, before[0], expected_keys), (values, before[1], expected_values)):
        torch.testing.assert_close(now, expected, rtol=tolerance, atol=tolerance)
        untouched = (expected == then).all(-1)
        assert torch.equal(now[untouched], then[untouched]), "the newest alone are written"


def whole_rollouts(attend) -> None:
    """Rows that end at every step, and are packed: with the kernel the same tokens as without."""
    import sample
    from engine import attention
    from temperature_head import TemperatureHead

    torch.manual_seed(2)
    shape = dict(vocab_size=40, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_head=8, d_mlp=48, max_length=64)
    transformer, head = model.Transformer(model.Config(**shape, qk_norm=True)), TemperatureHead(32)
    with torch.no_grad():
        transformer.unembedding.weight.mul_(4)
    prompts = [[3, 7, 1], [9], [4, 5, 3, 8, 8, 2]]

    def draw():
        generator = torch.Generator().manual_seed(0)
        return sample.generate(transformer, head, prompts, 5, 16, {1, 2}, generator, keep_reads=True)

    without = draw()
    attention.step_kernel = lambda device: attend
    found = draw()
    assert len(set(without.mask.sum(1).tolist())) > 5, "the test wants rows of many lengths"
    assert torch.equal(found.tokens, without.tokens)
    torch.testing.assert_close(found.reads, without.reads, rtol=1e-3, atol=1e-5)


def worker() -> None:
    from engine import attention_kernel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float16):  # the interpreter rounds bfloat16 in a way of its own
        for shape in SHAPES:
            one_step(attention_kernel.attend, dtype, "cpu", *shape)
    whole_rollouts(attention_kernel.attend)


@pytest.mark.parametrize(
    "dtype, d_head", [("bf16", 64), ("bf16", 128), ("bf16", 256), ("fp32", 64), ("fp32", 128), ("fp32", 256)]
)
def test_it_fits_the_shared_memory_of_a_small_card(dtype, d_head):
    """Compiled for a GeForce RTX 4090 (sm_89: 99 KiB for a program), which needs none."""
    pytest.importorskip("triton")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from engine import attention_kernel

    assert doctest.testmod(attention_kernel) == (0, 1)
    block, stages, warps = attention_kernel.tile({"bf16": 2, "fp32": 4}[dtype] * d_head)
    kernel = attention_kernel.attend_kernel
    constants = dict(GROUP=2, TOGETHER=8, ROWS=16, D=d_head, WIDTH=d_head, BLOCK=block)
    pointers = dict(lengths="i64", row_of_slot="i64", column="i64")
    pointers |= {name: "fp32" for name in ("norms", "cosine", "sine", "floor")}
    pointers |= {name: dtype for name in ("heads", "prompt_keys", "prompt_values", "keys", "values", "out")}
    types = {name: "*" + kind for name, kind in pointers.items()} | {"scale": "fp32"}
    types |= dict.fromkeys(constants, "constexpr")
    names = kernel.arg_names
    source = ASTSource(
        kernel,
        {name: types.get(name, "i32") for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in pointers},
    )
    compiled = triton.compile(
        source, target=GPUTarget("cuda", 89, 32), options={"num_stages": stages, "num_warps": warps}
    )
    assert compiled.metadata.shared <= 99 * 1024


@pytest.mark.skipif(torch.cuda.is_available(), reason="there the kernel itself is tested: test_gpu.py")
def test_the_kernel_reads_what_each_row_reads_alone():
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}  # before Triton is imported
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_where_kernels_cannot_be_built_it_is_said_once(monkeypatch, capsys):
    from engine import attention

    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    attention.builds_kernels.cache_clear()
    try:
        assert (
            attention.step_kernel(torch.device("cuda")) is None and attention.step_kernel(torch.device("cuda")) is None
        )
        assert capsys.readouterr().err.count("a C compiler") == 1
        assert attention.step_kernel(torch.device("cpu")) is None and not capsys.readouterr().err
    finally:
        attention.builds_kernels.cache_clear()


if __name__ == "__main__":
    worker()
