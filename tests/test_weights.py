"""weights.py where folders are unusual: what transformers makes of them is what we make, or one line says why not."""

import json

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import model
import tokenizer
from files import weights

transformers = pytest.importorskip(
    "transformers", reason="what is tested here is that weights are read as transformers reads them"
)

SIZES = dict(
    vocab_size=97, hidden_size=48, num_hidden_layers=3, intermediate_size=80, max_position_embeddings=128,
    num_attention_heads=4, num_key_value_heads=2, head_dim=12,
)  # fmt: skip
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
)


def stored(folder, family: str = "llama", **settings) -> dict:
    """Random weights of transformers in `folder`; its config.json."""
    torch.manual_seed(0)
    configuration = transformers.AutoConfig.for_model(family, **SIZES | settings)
    theirs = transformers.AutoModelForCausalLM.from_config(configuration)
    with torch.no_grad():
        for parameter in theirs.parameters():  # lively, so that a position that is turned otherwise shows
            parameter.add_(0.2 * torch.randn_like(parameter))
    theirs.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


def change(folder, **settings) -> None:
    file = folder / "config.json"
    raw = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({name: value for name, value in raw.items() if value != "absent"}))


@torch.no_grad()
def same_logits(folder) -> None:
    tokens = torch.randint(97, (2, 100), generator=torch.Generator().manual_seed(0))
    theirs, ours = transformers.AutoModelForCausalLM.from_pretrained(folder), model.load(folder)
    expected = theirs(tokens).logits
    assert (ours.unembed(ours(tokens)) - expected).norm() < 1e-4 * expected.norm()


# ---- what transformers reads, we read alike ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family, settings",
    [
        ("llama", dict(rope_scaling=LLAMA3, rope_parameters={"rope_type": "default", "rope_theta": 5e5})),
        ("llama", dict(rope_scaling=LLAMA3, rope_theta=5e5, rope_parameters="absent")),
        ("llama", dict(rope_scaling=None, rope_parameters=LLAMA3 | {"rope_theta": 3e3})),
        ("llama", dict(rope_parameters={n: v for n, v in LLAMA3.items() if n[:8] != "original"} | {"rope_theta": 3e3})),
        ("qwen2", dict(rope_theta=7e3, rope_parameters="absent")),
        ("llama", dict(rope_theta="absent", rope_parameters="absent")),
    ],
)  # fmt: skip
def test_rotary_settings_are_those_that_transformers_takes(family, settings, tmp_path):
    stored(tmp_path, family)
    change(tmp_path, **settings)
    same_logits(tmp_path)


def test_settings_for_full_attention_alone_are_the_settings():
    """A form of newer files, which transformers reads for some families only."""
    raw = SIZES | {"model_type": "qwen3", "layer_types": ["full_attention"] * 3, "rope_theta": 2e3}
    flat, nested = (
        weights.read_config(raw | {"rope_parameters": rope}, "config.json")
        for rope in (LLAMA3, {"full_attention": LLAMA3})
    )
    assert flat == nested and flat["rope_theta"] == 2e3 and flat["rope_scaling"] == (8.0, 1.0, 4.0, 32)
    with pytest.raises(ValueError, match="sliding-window"):
        weights.read_config(raw | {"layer_types": ["sliding_attention"]}, "config.json")


@pytest.mark.parametrize("scaling", [{"rope_type": "yarn", "factor": 4.0}, {"type": "linear", "factor": 2.0}])
@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_a_scaling_that_is_not_here_is_refused_wherever_it_stands(name, scaling):
    raw = SIZES | {"model_type": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, name: scaling}
    with pytest.raises(ValueError, match=f"rope_type '{scaling.get('rope_type', 'linear')}' is not supported"):
        weights.read_config(raw, "config.json")


def test_a_mistral_without_a_window_is_a_llama(tmp_path):
    raw = stored(tmp_path, "mistral", sliding_window=None)
    assert raw["model_type"] == "mistral"
    same_logits(tmp_path)
    model.save(model.load(tmp_path), tmp_path / "saved")
    same_logits(tmp_path / "saved")
    assert type(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")).__name__ == "LlamaForCausalLM"
    for window in ("absent", 64):  # absent is 4096 there
        change(tmp_path, sliding_window=window)
        with pytest.raises(ValueError, match="sliding-window attention is not supported"):
            model.load(tmp_path)


def test_numbers_that_stand_as_text_are_read(tmp_path):
    stored(tmp_path, rope_scaling=LLAMA3, rope_theta=1e6)
    expected = model.load(tmp_path).config
    as_text = {name: str(value) for name, value in LLAMA3.items()}
    change(
        tmp_path,
        rope_parameters="absent",
        rope_theta="1e6",
        rope_scaling=as_text,
        rms_norm_eps="1e-06",
        hidden_size="48",
    )
    assert model.load(tmp_path).config == expected


@torch.no_grad()
def test_a_whole_file_counts_more_than_an_index_beside_it(tmp_path):
    """Where a folder was saved in shards and then, anew, as one file: transformers takes the file."""
    stored(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, tmp_path / "old.safetensors", {"format": "pt"})
    (tmp_path / weights.INDEX).write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, "old.safetensors")})
    )
    same_logits(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    same_logits(tmp_path)
    old = dict(model.load(tmp_path).named_parameters())["norm.weight"]
    torch.testing.assert_close(old, tensors["model.norm.weight"] + 1)


def test_a_tied_unembedding_that_is_another_one_is_refused(tmp_path):
    stored(tmp_path, tie_word_embeddings=True)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in tensors
    same = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    save_file(same, tmp_path / "model.safetensors", {"format": "pt"})
    same_logits(tmp_path)
    save_file(same | {"lm_head.weight": same["lm_head.weight"] * 2}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="ties lm_head.weight to the embedding, but the file has a different"):
        model.load(tmp_path)


# ---- what we cannot read is named in one line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, said",
    [
        (dict(rope_scaling={"rope_type": "llama3"}), "llama3 scaling"),
        (dict(rope_scaling=LLAMA3 | {"factor": None}), "factor None"),
        (dict(rope_scaling=LLAMA3 | {"factor": "eight"}), "factor 'eight'"),
        (dict(rope_scaling=LLAMA3 | {"factor": float("nan")}), "factor nan"),
        (dict(rope_scaling=LLAMA3 | {"high_freq_factor": 1.0}), "high_freq_factor 1.0"),
        (dict(rope_scaling="yarn"), "'yarn', which is not supported"),
        (dict(rope_parameters={"sliding_attention": {"rope_theta": 1e4}}), "which is not supported"),
        (dict(rms_norm_eps=float("nan")), "rms_norm_eps is nan"),
        (dict(rms_norm_eps=0), "rms_norm_eps is 0"),
        (dict(rope_theta=0), "rope_theta is 0; it must be a number above 0"),
        (dict(rope_parameters={"rope_theta": -1e4}), "rope_theta is -10000.0"),
        (dict(rope_parameters={"rope_theta": float("inf")}), "rope_theta is inf"),
        (dict(hidden_size="wide"), "hidden_size is 'wide'; it must be a whole number from 1"),
        (dict(hidden_size=48.5), "hidden_size is 48.5"),
        (dict(num_hidden_layers=True), "num_hidden_layers is True"),
        (dict(tie_word_embeddings="false"), "tie_word_embeddings is 'false'; it must be true or false"),
    ],
)
def test_an_impossible_setting_is_one_line(settings, said):
    with pytest.raises(ValueError, match="config.json: ") as caught:
        weights.read_config(SIZES | {"model_type": "llama"} | settings, "config.json")
    assert said in str(caught.value) and "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 200) | st.floats() | st.sampled_from(["", "1e6", "nan", "llama3", "yarn", "full_attention"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["rope_type", "type", "factor", "rope_theta"]), inner),
    max_leaves=4,
)  # fmt: skip
FIELDS = sorted({*SIZES, "model_type", "rope_scaling", "rope_parameters", "rope_theta", "rms_norm_eps", "layer_types", "hidden_act",
                 "tie_word_embeddings", "sliding_window", "use_sliding_window", "attention_bias", "n_embd", "n_head"})  # fmt: skip


@settings(max_examples=400)
@given(
    st.sampled_from(["gpt2", "llama", "mistral", "qwen2", "qwen3"]),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
)
def test_any_setting_is_read_or_refused_in_one_line(family, changed):
    raw = SIZES | {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64, "model_type": family} | changed
    try:
        model.Config(**weights.read_config(raw, "config.json"))
    except ValueError as error:
        assert str(error).startswith("config.json: ") and "\n" not in str(error)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_quantized_weights_without_a_word_in_config_json_are_refused(dtype, tmp_path):
    stored(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].to(dtype)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match=f"tensor {name} is stored as {dtype}: a quantized checkpoint is not supported"
    ):
        model.load(tmp_path)


def test_other_folders_are_named_for_what_they_are(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "model.Q4.gguf").write_bytes(b"GGUF")
    snapshot = tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    for name, said in (
        ("adapter", "this is a PEFT adapter: merge it"),
        ("gguf", "these are GGUF files"),
        ("gguf/model.Q4.gguf", "is a file: a model is a folder"),
        ("models--Qwen--Qwen3-0.6B", f"this is an entry of the hub's cache: name {snapshot}"),
    ):
        for load in (model.load, tokenizer.load):
            with pytest.raises(FileNotFoundError) as caught:
                load(tmp_path / name)
            assert said in str(caught.value) and "\n" not in str(caught.value) and name in str(caught.value)


def test_the_models_that_come_along_are_at_the_root():
    assert weights.find_folder("models/modular").resolve() == ROOT / "models/modular"
