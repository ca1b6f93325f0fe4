"""model.py against transformers: every family, whole sequences and token by token, ragged prompts, save and load."""

import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import model
from engine import decoder, products
from engine.attention import Cache
from engine.decoder import Decoder
from files import weights

ROOT = Path(__file__).resolve().parent.parent
SIZES = dict(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3, max_position_embeddings=128)
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
FAMILIES = {
    "gpt2": lambda: transformers.GPT2Config(vocab_size=97, n_embd=48, n_layer=3, n_head=4, n_positions=128),
    "gpt2-untied": lambda: transformers.GPT2Config(
        vocab_size=97, n_embd=48, n_layer=2, n_head=4, n_positions=128, n_inner=100, tie_word_embeddings=False
    ),
    "llama": lambda: transformers.LlamaConfig(**SIZES, num_attention_heads=4),
    "llama3": lambda: transformers.LlamaConfig(
        **SIZES, num_attention_heads=4, num_key_value_heads=2, rope_parameters=LLAMA3
    ),
    "llama-biases": lambda: transformers.LlamaConfig(
        **SIZES, num_attention_heads=4, attention_bias=True, mlp_bias=True, head_dim=20
    ),
    "smollm2": lambda: transformers.LlamaConfig(
        **SIZES, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    ),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, num_attention_heads=4, num_key_value_heads=2),
    "qwen2.5-tied": lambda: transformers.Qwen2Config(
        **SIZES, num_attention_heads=4, num_key_value_heads=1, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=32),
    "qwen3-tied": lambda: transformers.Qwen3Config(
        **SIZES, num_attention_heads=2, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True
    ),
}  # fmt: skip


def reference(family: str) -> transformers.PreTrainedModel:
    """Random weights, biases and norms too, so that leaving any of them out shows."""
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(FAMILIES[family]()).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance=1e-4):
    error = (ours - theirs).norm() / theirs.norm()
    assert error < tolerance, f"relative error {error:.2e}"


@pytest.fixture(params=FAMILIES)
def pair(request, tmp_path):
    theirs = reference(request.param)
    theirs.save_pretrained(tmp_path)
    return model.load(tmp_path), theirs, tmp_path


@torch.no_grad()
def test_whole_sequence_equals_transformers(pair):
    ours, theirs, _ = pair
    tokens = torch.randint(97, (3, 70))
    assert_close(ours.unembed(ours(tokens)), theirs(tokens).logits)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [(9, 2, 23), (7, 7)])
@pytest.mark.parametrize(("stride", "small"), [(1, 2**18), (3, 2**18), (1, 0)])
def test_ragged_prompts_then_token_by_token_equal_transformers(pair, stride, small, lengths, monkeypatch):
    """Rows of any lengths, right-padded with junk, prefilled at once, then continued through the cache."""
    monkeypatch.setattr(products.Product, "SMALL", small)  # 0: every product's weights are packed
    ours, theirs, _ = pair
    lengths, new = torch.tensor(lengths), 8
    rows = [torch.randint(97, (length + new,)) for length in lengths.tolist()]
    cache = Cache(lengths, 1, new, stride=stride)
    padded = torch.randint(97, (len(rows), int(lengths.max())))
    for row, length, target in zip(rows, lengths, padded):
        target[:length] = row[:length]
    hidden, decode = ours(padded, cache), Decoder(ours)
    last = [hidden[torch.arange(len(rows)), lengths - 1]]
    for step in range(new):
        token = torch.stack([row[length + step] for row, length in zip(rows, lengths)])
        last.append(decode(token, cache))
    got = torch.stack([decode.unembed(state) for state in last], dim=1)
    for index, (row, length) in enumerate(zip(rows, lengths)):
        assert_close(got[index], theirs(row[None]).logits[0, length - 1 :])


@torch.no_grad()
@pytest.mark.parametrize("size", [1.0, 1e-3, 0.0, 1e4])
def test_the_norm_of_a_step_is_the_models(size, monkeypatch):
    """Also where eps is most of it, and at zero; its weights are left for the product that follows."""
    monkeypatch.setattr(decoder, "compiled", lambda function, device: function)  # what has a GPU's norm runs here
    place = torch.float32, torch.device("cpu")
    norm, x = torch.nn.RMSNorm(24, eps=1e-5), size * torch.randn(7, 3, 24)
    norm.weight.copy_(torch.rand(24) + 0.5)
    fast = decoder.Norm(norm, *place)
    torch.testing.assert_close(fast(x, None)[1] * fast.scale, norm(x), rtol=1e-5, atol=1e-6)
    bare = decoder.Norm(torch.nn.RMSNorm(24, eps=1e-5, elementwise_affine=False), *place)
    torch.testing.assert_close(bare(x, None)[1] * bare.scale * norm.weight, norm(x), rtol=1e-5, atol=1e-6)
    layer = torch.nn.LayerNorm(24)
    on_gpu, in_bfloat16 = (torch.float32, torch.device("cuda")), (torch.bfloat16, place[1])
    for of, where in ((norm, on_gpu), (norm, in_bfloat16), (layer, place), (torch.nn.RMSNorm(24), place)):
        whole = decoder.Norm(of, *where)  # the last has an eps of its own dtype's
        assert whole.scale is None and torch.equal(whole(x, None)[1], of(x).to(where[0]))
    delta = torch.randn(x.shape)  # the first norm of a step has none
    for each in (fast, whole, decoder.Norm(norm, *on_gpu)):
        total, normed = each(x, delta)
        assert torch.equal(total, x + delta) and torch.equal(normed, each(total, None)[1])


@torch.no_grad()
def test_queries_and_keys_are_turned_as_the_model_turns_them():
    norm, heads = torch.nn.RMSNorm(8, eps=1e-4), torch.randn(5, 3, 8)
    norm.weight.copy_(torch.rand(8) + 0.5)
    cosine, sine = model.waves(torch.rand(5, 1, 4))
    floor, scale = torch.tensor((8 * 1e-4) ** 0.5), 8**0.5 * norm.weight.expand(3, -1)
    expected = model.rotate(norm(heads), cosine, sine)
    torch.testing.assert_close(decoder.Turn(scale, cosine, sine, floor)(heads), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(decoder.Turn(scale, None, None, floor)(heads), norm(heads), rtol=1e-5, atol=1e-6)
    assert torch.equal(decoder.Turn(None, cosine, sine, floor)(heads), model.rotate(heads, cosine, sine))


@torch.no_grad()
def test_prompts_read_in_parts_are_held_as_if_read_at_once(pair):
    ours, _, _ = pair
    tokens, lengths = torch.randint(97, (5, 9)), torch.tensor([9, 3, 9, 1, 6])
    whole, parts = Cache(lengths, 2, 4), Cache(lengths, 2, 4)
    ours(tokens, whole)
    for part in tokens.split(2):
        ours(part, parts)
    for name in ("prompt_keys", "prompt_values"):
        at_once, in_parts = getattr(whole, name), getattr(parts, name)
        assert len(at_once) == len(in_parts) == len(parts.keys) == len(parts.values) == ours.config.n_layers
        for one, other in zip(at_once, in_parts):
            torch.testing.assert_close(one, other)
    with pytest.raises(ValueError, match="a cache for 5 prompts received 6"):
        ours(tokens[:1], parts)


@torch.no_grad()
def test_padding_and_neighbours_do_not_change_a_row(pair):
    ours, _, _ = pair
    row = torch.randint(97, (1, 12))
    beside = torch.cat((row, torch.randint(97, (1, 12)))), torch.cat((row, torch.randint(97, (1, 12))))
    padded = [torch.cat((both, torch.randint(97, (2, 5))), dim=1) for both in beside]
    first, second = (ours(tokens)[0, :12] for tokens in padded)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert_close(first, ours(row)[0], 1e-5)


@torch.no_grad()
def test_a_prompt_is_shared_by_its_samples_and_rows_can_leave(pair):
    """Rows leave at every step: first without, then with the slots packed anew, to the last row of the last prompt."""
    ours, theirs, _ = pair
    prompts, lengths, samples = torch.randint(97, (3, 6)), torch.tensor([6, 4, 5]), 4
    cache = Cache(lengths, samples, 8)
    ours(prompts, cache)
    tokens, left, decode = torch.randint(97, (12, 8)), torch.arange(12), Decoder(ours)
    shapes = set()
    for step, leaving in enumerate(([5], [0], [4, 6, 7], [2, 8], [1, 3], [9, 10], [], [])):
        hidden = decode(tokens[left, step], cache)
        shapes.add(cache.shape)
        for row, state in zip(left.tolist(), hidden):
            prompt = prompts[row // samples, : lengths[row // samples]]
            expected = theirs(torch.cat((prompt, tokens[row, : step + 1]))[None]).logits[0, -1]
            assert_close(ours.unembed(state), expected)
        kept = torch.tensor([place for place, row in enumerate(left.tolist()) if row not in leaving])
        left = left[kept]
        cache.keep(kept)
    assert left.tolist() == [11] and {(3, 4), (1, 1)} < shapes, shapes


@torch.no_grad()
def test_saved_model_loads_in_transformers(pair, tmp_path):
    ours, theirs, _ = pair
    model.save(ours, tmp_path / "saved")
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert type(back) is type(theirs)
    tokens = torch.randint(97, (2, 60))
    assert_close(back(tokens).logits, theirs(tokens).logits, 1e-6)
    again = model.load(tmp_path / "saved")
    assert again.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
@torch.no_grad()
def test_sharded_and_bare_checkpoints(family, tmp_path):
    theirs = reference(family)
    tokens = torch.randint(97, (1, 20))
    theirs.save_pretrained(tmp_path / "sharded", max_shard_size="60KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    theirs.base_model.save_pretrained(tmp_path / "bare")
    folders = ["sharded"] + (["bare"] if theirs.config.tie_word_embeddings else [])
    for folder in folders:
        ours = model.load(tmp_path / folder)
        assert_close(ours.unembed(ours(tokens)), theirs(tokens).logits)


def test_old_rope_fields_and_missing_head_dim():
    """Configurations written before transformers 5, as most folders on the hub are."""
    raw = dict(SIZES, model_type="llama", num_attention_heads=4, rope_theta=5e5, rope_scaling=dict(LLAMA3))
    config = model.Config(**weights.read_config(raw, "config.json"))
    assert config.rope_theta == 5e5 and config.rope_scaling == (8.0, 1.0, 4.0, 32)
    assert config.d_head == 12 and config.n_kv_heads == 4 and not config.tied


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "gemma3"}, "gemma3"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "yarn"),
        ({"use_sliding_window": True}, "sliding"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"hidden_act": "gelu"}, "activation"),
        ({"hidden_act": "gelu_pytorch_tanh"}, "activation"),  # GPT-2's, which this decoder has there alone
        ({"model_type": "gpt2", "activation_function": "silu"}, "activation"),
        ({"vocab_size": None}, "vocab_size"),
    ],
)
def test_unknown_configurations_are_refused_by_name(change, message):
    raw = dict(SIZES, model_type="qwen3", num_attention_heads=4) | change
    with pytest.raises(ValueError, match=message):
        weights.read_config(raw, "config.json")


def test_broken_folders_are_refused_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        model.load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="config.json"):
        model.load(tmp_path)
    reference("qwen3").save_pretrained(tmp_path)
    raw, stored = (tmp_path / "config.json").read_text(), (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(stored[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        model.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(stored)
    for field, value, message in [
        ("hidden_size", 64, "has shape"),
        ("num_hidden_layers", 4, "is missing"),
        ("num_hidden_layers", 2, "has no place"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(json.loads(raw) | {field: value}))
        with pytest.raises(ValueError, match=message):
            model.load(tmp_path)
    (tmp_path / "config.json").write_text(raw)
    tensors = load_file(tmp_path / "model.safetensors")
    name = min(tensors)
    save_file(tensors | {name: tensors[name].index_fill(0, torch.tensor(0), torch.nan)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"tensor {name} contains numbers that are not finite"):
        model.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(FileNotFoundError, match="never from pickles"):
        model.load(tmp_path)


@pytest.mark.skipif(not (ROOT / "models/countdown").is_dir(), reason="needs the shipped model")
def test_the_models_that_come_along_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert weights.find_folder("models/countdown") == ROOT / "models/countdown"
    (tmp_path / "models/countdown").mkdir(parents=True)
    assert weights.find_folder("models/countdown") == Path("models/countdown"), "what is here comes first"


def test_an_index_without_files_is_refused(tmp_path):
    model.save(model.load(ROOT / "models/countdown"), tmp_path)
    index = tmp_path / weights.INDEX
    (tmp_path / "model.safetensors").rename(tmp_path / "a.safetensors")
    for text, message in [
        ("{}", "needs a weight_map"),
        ('{"weight_map": {"a": 1}}', "needs a weight_map"),
        ('{"weight_map": {"a": "../b"}}', "in this folder"),
        ("[", "not a JSON"),
    ]:
        index.write_text(text)
        with pytest.raises(ValueError, match=message):
            model.load(tmp_path)
    index.unlink()
    with pytest.raises(FileNotFoundError, match="weights are read from safetensors only"):
        model.load(tmp_path)


# ---- the hub --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch) -> list:
    """A hub that holds the model of models/countdown/ under every name; the list grows by what it is asked for."""
    asked: list = []

    def snapshot_download(hub_id, *, revision=None, allow_patterns=None):
        asked.append((hub_id, revision, allow_patterns))
        return str(ROOT / "models/countdown")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize(
    "name, hub_id, revision",
    [
        ("gpt2", "gpt2", None),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", None),
        ("Qwen/Qwen3-0.6B@v1.0", "Qwen/Qwen3-0.6B", "v1.0"),
        ("Qwen/Qwen3-0.6B@refs/pr/12", "Qwen/Qwen3-0.6B", "refs/pr/12"),
        ("gpt2@607a30d783dfa663caf39e06633721c8d4cfcd7e", "gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e"),
    ],
)
def test_a_hub_id_may_name_a_revision(name, hub_id, revision, hub):
    assert model.load(name).config == model.load(ROOT / "models/countdown").config
    ((asked, at, patterns),) = hub
    assert (asked, at) == (hub_id, revision)
    assert "*.safetensors" in patterns and not any("bin" in pattern or "pt" in pattern for pattern in patterns)


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path, hub):
    model.save(model.load(ROOT / "models/countdown"), tmp_path / "me@home")
    assert model.load(tmp_path / "me@home") and not hub
    with pytest.raises(FileNotFoundError, match="no such folder"):
        model.load(tmp_path / "you@home")
    with pytest.raises(FileNotFoundError, match="Qwen/Qwen3-0.6B@: no revision after the @"):
        model.load("Qwen/Qwen3-0.6B@")
    assert not hub


@pytest.mark.parametrize(
    "said, reason",
    [
        ("404 Client Error. (Request ID: a)\n\nRevision Not Found for url: https://x/y.", "Revision Not Found for url"),
        (
            "401 Client Error. (Request ID: a)\n\nCannot access gated repo for url https://x.\nAsk.",
            "Cannot access gated",
        ),
        ("An error happened: please check your internet connection.\nMore.", "check your internet connection"),
        ("", "RuntimeError"),
    ],
)
def test_what_a_hub_refuses_is_one_line(said, reason, monkeypatch):
    def snapshot_download(*_, **__):
        raise RuntimeError(said)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(FileNotFoundError, match=reason) as raised:
        model.load("someone/model@main")
    line = str(raised.value)
    assert line.startswith("someone/model@main: not a folder, and not a model on the hub (") and "\n" not in line


def test_checkpointing_gives_the_same_gradient(pair):
    ours, _, _ = pair
    tokens = torch.randint(97, (2, 10))
    gradients = []
    for checkpointing in (False, True):
        ours.checkpointing = checkpointing
        ours.zero_grad()
        ours.unembed(ours(tokens)).logsumexp(-1).sum().backward()
        gradients.append([p.grad.clone() for p in ours.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(*gradients))


@pytest.fixture
def two_cards(monkeypatch):
    """A machine that says it has two, and what choosing one switches put back."""
    precision = torch.get_float32_matmul_precision()
    for name, value in (("is_available", True), ("device_count", 2)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    yield
    torch.set_float32_matmul_precision(precision)
    torch.backends.cuda.enable_cudnn_sdp(True)


def test_choosing_cuda_rounds_factors_and_leaves_cudnn_out(two_cards):
    """And choosing another device changes nothing."""
    precision = torch.get_float32_matmul_precision()
    model.choose_device("cpu")
    assert torch.get_float32_matmul_precision() == precision and torch.backends.cuda.cudnn_sdp_enabled()
    assert model.choose_device("auto") == "cuda"
    assert torch.get_float32_matmul_precision() == "high" and not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("name", ["cuda:0", "cuda:1", "cpu", "cpu:0"])
def test_a_device_may_have_its_number(name, two_cards):
    assert model.choose_device(name) == name


@pytest.mark.parametrize("name", ["cuda:2", "cuda:x", "cuda:", "cuda:-1", "cpu:1", "tpu", ""])
def test_a_device_that_is_not_there_is_refused(name, two_cards):
    with pytest.raises(ValueError, match=r"does not exist on this machine; it has cuda, cpu \(cuda:0 to cuda:1\)"):
        model.choose_device(name)


def test_loading_does_not_import_torchs_compiler(tmp_path):
    """It takes as long as all else at the start of sample.py and eval.py; and shapes alone need no random numbers."""
    reference("gpt2").save_pretrained(tmp_path)  # both kinds of embedding
    code = "import sys, model; model.load(sys.argv[1]); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT).returncode == 0
    torch.manual_seed(0)
    ours = model.Embedding(300, 64)
    torch.manual_seed(0)
    assert torch.equal(ours.weight, torch.nn.Embedding(300, 64).weight), "where there is something to fill, as ever"


@pytest.mark.parametrize("d_model, asked, threads", [(128, None, 1), (255, None, 1), (256, None, 3), (128, "3", 3)])
def test_narrow_models_run_on_one_thread_unless_asked_otherwise(d_model, asked, threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        model.choose_threads(d_model)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
