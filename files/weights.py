"""Open weights on disk: Hugging Face's names, fields and layouts to ours, and back.

A model folder has a config.json and one or more safetensors files.  Llama, Qwen2 and Qwen3 share their names.  GPT-2 has its own
names, keeps q, k and v in one matrix, and stores matrices transposed.  Pickled weights are never read.

`model.load` and `model.save` call this file, which imports nothing local.
"""

import json
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

HUB_FILES = [
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*.json",
    "chat_template.jinja",
]  # fmt: skip
RUN, HELD_OUT = "run.json", "held_out.jsonl"  # in the folder of a run
ACTIVATIONS = ("silu",), ("gelu_new", "gelu_pytorch_tanh")  # Llama's and Qwen's, GPT-2's
INDEX = "model.safetensors.index.json"
LLAMA3_SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
NAMES = {  # our parameter names -> Llama's, which Qwen shares, and GPT-2's
    "llama": dict(
        embed="model.embed_tokens", layers="model.layers", norm="model.norm", unembedding="lm_head",
        attention_norm="input_layernorm", mlp_norm="post_attention_layernorm", attention="self_attn", q="q_proj",
        k="k_proj", v="v_proj", o="o_proj", gate="gate_proj", up="up_proj", down="down_proj",
    ),
    "gpt2": dict(
        embed="transformer.wte", position="transformer.wpe", layers="transformer.h", norm="transformer.ln_f",
        unembedding="lm_head", attention_norm="ln_1", mlp_norm="ln_2", attention="attn", q="c_attn", k="c_attn",
        v="c_attn", o="c_proj", up="c_fc", down="c_proj",
    ),
}  # fmt: skip
FIELDS = {  # our Config fields -> theirs
    "llama": dict(
        vocab_size="vocab_size", d_model="hidden_size", n_layers="num_hidden_layers", n_heads="num_attention_heads",
        n_kv_heads="num_key_value_heads", d_head="head_dim", d_mlp="intermediate_size",
        max_length="max_position_embeddings", norm_eps="rms_norm_eps", rope_theta="rope_theta",
        out_bias="attention_bias", mlp_bias="mlp_bias", tied="tie_word_embeddings",
    ),
    "gpt2": dict(
        vocab_size="vocab_size", d_model="n_embd", n_layers="n_layer", n_heads="n_head", d_mlp="n_inner",
        max_length="n_positions", norm_eps="layer_norm_epsilon", tied="tie_word_embeddings",
    ),
}  # fmt: skip

COUNTS = dict.fromkeys(("vocab_size", "d_model", "n_heads", "n_kv_heads", "d_head", "d_mlp", "max_length"), 10**9)
COUNTS["n_layers"] = 10_000  # each layer is built, which takes time
SWITCHES = ("out_bias", "mlp_bias", "tied")
# transformers' defaults for Mistral.  With `sliding_window: null` a Mistral is a Llama.
MISTRAL = {"sliding_window": 4096, "num_key_value_heads": 8}
STORED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def read_config(raw: dict, where: str) -> dict:
    """The arguments of model.Config from Hugging Face's config.json.  ValueError: a setting that would change the function."""
    family = raw.get("model_type")
    raw = MISTRAL | raw if family == "mistral" else raw
    rope = rope_settings(raw, where)
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    activation = raw.get("activation_function", "gelu_new") if family == "gpt2" else raw.get("hidden_act", "silu")
    window = raw.get("sliding_window") if family == "mistral" else raw.get("use_sliding_window")
    refused = {
        f"model_type {family!r}": family not in ("gpt2", "llama", "mistral", "qwen2", "qwen3"),
        "a quantized checkpoint": raw.get("quantization_config"),
        "sliding-window attention": window or "sliding_attention" in str(raw.get("layer_types")),
        f"rope_type {rope_type!r}": rope_type not in ("default", "llama3"),
        "partial rotary": rope.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1)) != 1,
        f"activation {activation!r}": activation not in ACTIVATIONS[family == "gpt2"],
        "this attention scaling": raw.get("scale_attn_by_inverse_layer_idx") or not raw.get("scale_attn_weights", True),
    }
    for what in (what for what, present in refused.items() if present):
        raise ValueError(f"{where}: {what} is not supported; this decoder is GPT-2, Llama, Qwen2/2.5 or Qwen3")
    kind = "gpt2" if family == "gpt2" else "llama"
    values = {ours: raw[theirs] for ours, theirs in FIELDS[kind].items() if raw.get(theirs) is not None}
    values |= {"rope_theta": rope["rope_theta"]} if kind == "llama" and rope.get("rope_theta") is not None else {}
    if missing := {"vocab_size", "d_model", "n_layers", "n_heads", "max_length"} - set(values):
        raise ValueError(f"{where}: the field {FIELDS[kind][min(missing)]!r} is missing")
    for ours, value in values.items():
        name, number = FIELDS[kind][ours], None if ours in SWITCHES else as_number(value)
        if ours in COUNTS and not (isinstance(number, int) and 0 < number <= COUNTS[ours]):
            raise ValueError(f"{where}: {name} is {value!r}; it must be a whole number from 1 to {COUNTS[ours]:,}")
        if ours in SWITCHES and type(value) is not bool:
            raise ValueError(f"{where}: {name} is {value!r}; it must be true or false")
        if ours in ("norm_eps", "rope_theta") and not (number is not None and 0 < number < math.inf):
            raise ValueError(f"{where}: {name} is {value!r}; it must be a number above 0")
        values[ours] = value if number is None else number
    heads = dict(d_head=values["d_model"] // values["n_heads"], n_kv_heads=values["n_heads"])
    values = heads | dict(d_mlp=4 * values["d_model"]) | values
    if values["n_heads"] % values["n_kv_heads"] or (kind == "llama" and values["d_head"] % 2) or not values["d_head"]:
        sizes = ", ".join(f"{name} {values[name]}" for name in ("n_heads", "n_kv_heads", "d_head"))
        raise ValueError(f"{where}: the attention heads do not divide ({sizes})")
    if family == "gpt2":
        switches = dict(norm="layer", position="learned", mlp="gelu", qkv_bias=True, out_bias=True, mlp_bias=True)
        return dict(norm_eps=1e-5, tied=True) | values | switches
    values["rope_scaling"] = llama3_scaling(rope, values["max_length"], where) if rope_type == "llama3" else None
    return values | dict(qkv_bias=family == "qwen2" or values.get("out_bias", False), qk_norm=family == "qwen3")


def as_number(value) -> int | float | None:
    """A number, or the number in a text such as "1e6", which some converters write; None for anything else."""
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if type(number) not in (int, float):
        return None
    return int(number) if isinstance(value, str) and number.is_integer() else number


def rope_settings(raw: dict, where: str) -> dict:
    """The rotary settings: as in transformers `rope_scaling`, the older name, else `rope_parameters`.

    Newer files may have one set for each kind of layer.  Only full attention is supported here.
    """
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if isinstance(rope, dict) and isinstance(rope.get("full_attention"), dict):
        rope = rope["full_attention"]
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        raise ValueError(f"{where}: rope_scaling or rope_parameters is {rope!r}, which is not supported")
    return rope


def llama3_scaling(rope: dict, max_length: int, where: str) -> tuple:
    settings = {"original_max_position_embeddings": max_length} | rope
    values = tuple(as_number(settings.get(name)) for name in LLAMA3_SCALING)
    if None in values or not (values[0] >= 1 and 0 < values[1] < values[2] < math.inf and 0 < values[3] < math.inf):
        told = ", ".join(f"{name} {settings.get(name)!r}" for name in LLAMA3_SCALING)
        raise ValueError(f"{where}: the llama3 scaling of the rotary positions is incomplete or impossible ({told})")
    return values


def write_config(config) -> dict:
    """The inverse of `read_config`, from a model.Config."""
    fields = FIELDS["gpt2" if config.family == "gpt2" else "llama"]
    wrapper = "GPT2LMHeadModel" if config.family == "gpt2" else config.family.capitalize() + "ForCausalLM"
    raw = {theirs: getattr(config, ours) for ours, theirs in fields.items()}
    if config.rope_scaling is not None:
        raw["rope_scaling"] = {"rope_type": "llama3", **dict(zip(LLAMA3_SCALING, config.rope_scaling))}
    return raw | {"model_type": config.family, "architectures": [wrapper]}


def their_name(ours: str, family: str) -> str:
    """Our parameter name -> the name in Hugging Face's files.

    >>> their_name("layers.0.attention.q.weight", "qwen3")
    'model.layers.0.self_attn.q_proj.weight'
    """
    names = NAMES["gpt2" if family == "gpt2" else "llama"]
    return ".".join(names.get(part, part) for part in ours.split("."))


def find_folder(name_or_path: str | Path, files: Iterable[str] = HUB_FILES) -> Path:
    """The folder of this name.  For a hub id, download these files of the model and return their folder.

    `id@revision` names a branch, tag or commit of the model.  `id` alone means its main branch as it is today.
    """
    for folder in (
        Path(name_or_path),
        Path(__file__).parent.parent / name_or_path,
    ):  # so that models/ is found from any working directory
        if folder.is_dir():
            if not (folder / "config.json").is_file() and (kind := other_kind(folder)):
                raise FileNotFoundError(f"{folder}: no config.json; {kind}")
            return folder
    if Path(name_or_path).is_file():
        raise FileNotFoundError(f"{name_or_path} is a file: a model is a folder with config.json and safetensors files")
    hub_id, at, revision = str(name_or_path).partition("@")
    if hub_id.count("/") > 1 or hub_id.startswith((".", "/", "~")):
        raise FileNotFoundError(f"{name_or_path}: no such folder")
    if at and not revision:  # an empty shell variable must not mean the newest
        raise FileNotFoundError(f"{name_or_path}: no revision after the @")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision or None, allow_patterns=list(files)))
    except Exception as error:  # the hub's errors have many types, and the user needs one line
        # The first line may be a bare "404 Client Error."  The next one has the reason.
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line[:3].isdigit()]
        reason = (lines or [type(error).__name__])[0]
        raise FileNotFoundError(f"{name_or_path}: not a folder, and not a model on the hub ({reason})") from None


def trained_with(folder: Path) -> dict:
    """The settings of the run in this folder, under the names of train.py's flags; empty for any other folder."""
    return read_json(folder / RUN) if (folder / RUN).is_file() else {}


def read_json(file: Path) -> dict:
    """A model folder's JSON file; FileNotFoundError or ValueError with its name."""
    if not file.is_file():
        raise FileNotFoundError(
            f"{file.parent}: this is not a model folder in Hugging Face format: it has no {file.name}"
        )
    try:
        return {} | json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, TypeError, RecursionError) as error:  # TypeError: a list, or a number
        raise ValueError(f"{file}: not a JSON object ({error})") from None


def other_kind(folder: Path) -> str:
    """What to do with a folder that stores a model in another format; empty for any other folder."""
    if (folder / "adapter_config.json").is_file():
        return "this is a PEFT adapter: merge it into its base model (merge_and_unload) and save that"
    if any(folder.glob("*.gguf")):
        return "these are GGUF files: load them with transformers (gguf_file=...) and save_pretrained"
    if (snapshots := sorted((folder / "snapshots").glob("*/config.json"))) and folder.name.startswith("models--"):
        return f"this is an entry of the hub's cache: name {snapshots[-1].parent}"
    return ""


def open_tensors(folder: Path, device) -> dict:
    """{tensor name: a function that reads it} of one or several safetensors files."""
    index, names = folder / INDEX, {"model.safetensors"}
    if not (folder / "model.safetensors").is_file() and index.is_file():  # an index beside one whole file is ignored
        weight_map = read_json(index).get("weight_map")
        plain = isinstance(weight_map, dict) and all(type(f) is str and f == Path(f).name for f in weight_map.values())
        if not plain or not weight_map:
            raise ValueError(f"{index}: it needs a weight_map from tensors to files in this folder")
        names = set(weight_map.values())
    tensors = {}
    for file in sorted(folder / name for name in names):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: missing (weights are read from safetensors only, never from pickles)")
        try:
            opened = safe_open(file, framework="pt", device=str(device))
        except SafetensorError as error:
            raise ValueError(f"{file}: not a whole safetensors file ({error})") from None
        tensors |= {name: partial(opened.get_tensor, name) for name in opened.keys()}
    return tensors


def read_state(
    folder: Path, shapes: dict[str, torch.Size], family: str, tied: bool, device, dtype
) -> dict[str, Tensor]:
    """{our name: tensor} for each of `shapes`.  ValueError: a tensor is missing, has another shape, or has no place."""
    # Files saved from the bare decoder lack the wrapper's prefix.  Old files store constants as tensors.
    prefix = their_name("embed", family).split(".")[0] + "."
    constants = (".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")
    found = {n: read for n, read in open_tensors(folder, device).items() if not n.endswith(constants)}
    found = {n if n.startswith((prefix, "lm_head")) else prefix + n: read for n, read in found.items()}
    state, unused = {}, set(found) - ({"lm_head.weight"} if tied else set())
    for ours, shape in shapes.items():
        theirs = their_name(ours, family)
        unused.discard(theirs)
        tensor = found[theirs]() if theirs in found else torch.empty(0)
        part, last = theirs.split(".")[-2:]
        if family == "gpt2" and part.startswith("c_"):  # stored transposed, and q, k and v in one matrix
            tensor = tensor.T if last == "weight" else tensor
            tensor = tensor.chunk(3)["qkv".index(ours.split(".")[-2])] if part == "c_attn" else tensor
        if tensor.shape != shape:
            what = f"has shape {tuple(tensor.shape)}" if theirs in found else "is missing"
            raise ValueError(f"{folder}: tensor {theirs} {what}; config.json asks for {tuple(shape)}")
        if tensor.dtype not in STORED:
            raise ValueError(
                f"{folder}: tensor {theirs} is stored as {tensor.dtype}: a quantized checkpoint is not supported"
            )
        if not tensor.isfinite().all():
            raise ValueError(f"{folder}: tensor {theirs} contains numbers that are not finite: the model is broken")
        state[ours] = tensor.to(dtype).contiguous()
    if tied and "lm_head.weight" in found:
        embedding = found[their_name("embed.weight", family)]()
        if not torch.equal(found["lm_head.weight"](), embedding):
            raise ValueError(
                f"{folder}: config.json ties lm_head.weight to the embedding, but the file has a different lm_head.weight"
            )
    if unused:
        raise ValueError(f"{folder}: tensor {min(unused)} has no place in a {family} model")
    return state


def write_state(folder: Path, state: dict[str, Tensor], family: str) -> None:
    """Write model.safetensors, and an index for it.

    The index is for inference engines.  Without it they would also read a run's temperature_head.safetensors.
    """
    tensors: dict[str, Tensor] = {}
    for ours, tensor in state.items():
        theirs, tensor = their_name(ours, family), tensor.detach().cpu()
        if family == "gpt2" and theirs.split(".")[-2].startswith("c_"):
            tensor = tensor.T if tensor.dim() == 2 else tensor
            if theirs in tensors:  # q, then k, then v
                tensor = torch.cat((tensors[theirs], tensor), dim=-1)
        tensors[theirs] = tensor.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    size = {"total_size": sum(tensor.nbytes for tensor in tensors.values())}
    index = {"metadata": size, "weight_map": dict.fromkeys(sorted(tensors), "model.safetensors")}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
