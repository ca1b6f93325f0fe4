"""The language model pi_theta: one decoder, whose settings make it GPT-2, Llama, Qwen2/2.5 or Qwen3.

    h = Transformer(tokens)          the last layer's hidden states, after the final norm
    logits = Transformer.unembed(h)

IntroLLM needs exactly these two views of a decoder: the temperature head reads h_t, and the token policy is
softmax(unembed(h_t) / tau_t).  The rest of this file runs open weights unchanged.

A few switches of `Config` lead from GPT-2 to Qwen3.  tests/test_model.py compares each family with transformers.

              norm    position   mlp      biases        qk_norm   tied
    GPT-2     layer   learned    gelu     all           no        yes
    Llama     rms     rope       swiglu   none          no        some     (3.1 and later: `rope_scaling`; SmolLM2: as Llama)
    Qwen2/.5  rms     rope       swiglu   q, k, v       no        some
    Qwen3     rms     rope       swiglu   none          yes       some

files/weights.py reads and writes open weights.  This file imports nothing else local.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from files import weights


@dataclass(frozen=True)
class Config:
    """Sizes, then the switches.  The defaults of the switches are Llama's."""

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int  # fewer than n_heads: grouped-query attention
    d_head: int  # need not be d_model / n_heads (Qwen3)
    d_mlp: int
    max_length: int  # longest sequence, in tokens
    norm: str = "rms"  # "rms" or "layer"
    norm_eps: float = 1e-6
    position: str = "rope"  # "rope" or "learned"
    rope_theta: float = 10_000.0
    rope_scaling: tuple[float, float, float, int] | None = None  # Llama 3.1: factor, low, high, original length
    mlp: str = "swiglu"  # "swiglu" or "gelu"
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # Qwen3: RMSNorm over each head's query and key
    tied: bool = False  # the unembedding is the embedding

    @property
    def family(self) -> str:
        """The `model_type` under which transformers loads these switches."""
        if self.position == "learned":
            return "gpt2"
        if self.qk_norm:
            return "qwen3"
        return "qwen2" if self.qkv_bias and not self.out_bias else "llama"


def make_norm(config: Config, size: int) -> nn.Module:
    return (nn.RMSNorm if config.norm == "rms" else nn.LayerNorm)(size, eps=config.norm_eps)


def rope_frequencies(config: Config) -> Tensor:
    """(d_head / 2,) radians per position.  Llama 3.1's scaling slows waves that are longer than the original context."""
    exponent = torch.arange(0, config.d_head, 2, dtype=torch.float32, device="cpu") / config.d_head
    frequencies = 1.0 / config.rope_theta**exponent
    if config.rope_scaling is None:
        return frequencies
    factor, low, high, original_length = config.rope_scaling
    waves_in_context = original_length * frequencies / (2 * math.pi)
    keep = ((waves_in_context - low) / (high - low)).clamp(0, 1)  # 0: slowed by `factor`, 1: kept
    return frequencies * (keep + (1 - keep) / factor)


def waves(angles: Tensor) -> tuple[Tensor, Tensor]:
    """The arguments of `rotate`: angles (..., d_head / 2) -> (cos, cos) and (-sin, sin), (..., d_head) each."""
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position: turn the pair (x_i, x_{i + d_head/2}) of each head by position * frequency_i."""
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cosine, torch.cat((second, first), dim=-1), sine)


def causal(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d_head)) v, all (B, T, head, d_head): position t reads up to t, or where `mask` (B, 1, T, S) is True."""
    query, key, value = (x.to(value.dtype).transpose(1, 2) for x in (query, key, value))
    if query.shape[1] != key.shape[1] and mask is not None and query.is_cuda:  # no CUDA kernel has masks and groups
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    grouped = query.shape[1] != key.shape[1]
    mixed = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
    )
    return mixed.transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.d_head = config.d_head
        self.q = nn.Linear(config.d_model, config.n_heads * config.d_head, bias=config.qkv_bias)
        self.k = nn.Linear(config.d_model, config.n_kv_heads * config.d_head, bias=config.qkv_bias)
        self.v = nn.Linear(config.d_model, config.n_kv_heads * config.d_head, bias=config.qkv_bias)
        self.o = nn.Linear(config.n_heads * config.d_head, config.d_model, bias=config.out_bias)
        self.q_norm = nn.RMSNorm(config.d_head, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(config.d_head, eps=config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, rotation, attend) -> Tensor:
        # Products may be in bfloat16.  Norms and rotations keep x's dtype.
        query = self.q_norm(self.q(x).unflatten(-1, (-1, self.d_head)).to(x.dtype))  # (B, T, head, d_head)
        key = self.k_norm(self.k(x).unflatten(-1, (-1, self.d_head)).to(x.dtype))  # (B, T, kv head, d_head)
        value = self.v(x).unflatten(-1, (-1, self.d_head))
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        return self.o(attend(query, key, value).flatten(2))


class MLP(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.d_mlp, bias=config.mlp_bias) if config.mlp == "swiglu" else None
        self.up = nn.Linear(config.d_model, config.d_mlp, bias=config.mlp_bias)
        self.down = nn.Linear(config.d_mlp, config.d_model, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(F.gelu(self.up(x), approximate="tanh"))
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.attention_norm = make_norm(config, config.d_model)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config, config.d_model)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rotation, attend) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation, attend)
        return x + self.mlp(self.mlp_norm(x))


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        if not self.weight.is_meta:  # on meta tensors torch would import its compiler, for 1.5 s
            super().reset_parameters()


class Transformer(nn.Module):
    """tokens (B, T) -> hidden (B, T, d_model).  Rows are padded on the right, so a row never sees its padding."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.checkpointing = False  # recompute layers in the backward pass: less memory, a third more time
        self.compute_dtype: torch.dtype | None = None  # torch.bfloat16 on a GPU; the weights themselves stay float32
        self.original_config: dict = {}  # config.json as it was read; `save` keeps fields that Config lacks
        self.embed = Embedding(config.vocab_size, config.d_model)
        self.position = Embedding(config.max_length, config.d_model) if config.position == "learned" else None
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = make_norm(config, config.d_model)
        self.unembedding = None if config.tied else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.frequencies = rope_frequencies(config) if config.position == "rope" else None

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    def autocast(self):
        """A context in which matrix products run in `compute_dtype`.  It converts each weight once."""
        return torch.autocast(self.device.type, self.compute_dtype, enabled=self.compute_dtype is not None)

    def forward(self, tokens: Tensor, cache=None, layers: int | None = None) -> Tensor:
        """Hidden states (B, T, d_model) of `tokens` (B, T).  `layers`: return the state after so many layers, without the final norm.

        Without a `cache` each row is a sequence of its own.  A cache has `reader(tokens) -> (positions (B or 1, T), read)`, and every
        layer calls read(query, key, value) in turn.  Caches: minimal.Cache, and engine/attention.py's Cache and Packed.
        """
        positions, read = torch.arange(tokens.shape[1], device=tokens.device)[None], causal  # (1, T)
        if cache is not None:
            positions, read = cache.reader(tokens)
        x, rotation = self.embed(tokens), None
        if self.position is not None:
            x = x + self.position(positions)
        else:
            self.frequencies = self.frequencies.to(tokens.device)
            angles = positions[:, :, None, None] * self.frequencies  # (1, T, 1, d_head / 2)
            rotation = tuple(wave.to(x.dtype) for wave in waves(angles))
        for layer in self.layers[:layers]:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, rotation, read, use_reentrant=False)
            else:
                x = layer(x, rotation, read)
        return self.norm(x) if layers is None else x

    def unembed(self, hidden: Tensor) -> Tensor:
        """hidden (..., d_model) -> logits (..., vocab_size), in float32 even if `compute_dtype` is bfloat16."""
        weight = self.embed.weight if self.unembedding is None else self.unembedding.weight
        if self.compute_dtype is None:
            return F.linear(hidden, weight)
        rows = hidden.reshape(-1, hidden.shape[-1]).to(self.compute_dtype)
        return WideProduct.apply(rows, weight.to(self.compute_dtype)).view(*hidden.shape[:-1], -1)


class WideProduct(torch.autograd.Function):
    """hidden (N, d), weight (V, d), both bfloat16 -> logits (N, V) in float32.

    A temperature multiplies the rounding error of the logits by 1 / tau.  In bfloat16 a logit of 20 has an error of up to 0.06.  At
    tau = 0.1 the log-probability's error is then 0.6, and a ratio that should be 1 leaves PPO's clip range.
    """

    @staticmethod
    def forward(context, hidden: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(hidden, weight)
        with torch.autocast(hidden.device.type, enabled=False):
            if hidden.is_cuda:
                return torch.mm(hidden, weight.t(), out_dtype=torch.float32)
            return hidden.float() @ weight.float().t()

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, Tensor]:
        hidden, weight = context.saved_tensors
        gradient = gradient.to(hidden.dtype)
        return gradient @ weight, gradient.t() @ hidden


def choose_device(name: str = "auto") -> str:
    """The device of this name.  auto: the first of cuda, mps and cpu that exists.  ValueError: it does not exist here.

    For CUDA this sets two switches of the process: TF32 for float32 products, and no cuDNN attention."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, present in there.items() if present)
    kind, colon, index = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if not there.get(kind) or colon and index not in map(str, range(count)):
        several = f" (cuda:0 to cuda:{torch.cuda.device_count() - 1})" if there["cuda"] else ""
        raise ValueError(
            f"device {name!r} does not exist on this machine; it has {', '.join(d for d in there if there[d])}{several}"
        )
    if name.startswith("cuda"):
        # TF32: float32 products round their factors to 11 bits.  It affects what is not in bfloat16: the head.
        torch.set_float32_matmul_precision("high")
        # cuDNN makes a plan for each new shape, in 0.2 s, and rollouts differ in shape.
        torch.backends.cuda.enable_cudnn_sdp(False)
    return name


def choose_threads(d_model: int) -> None:
    """One CPU thread for a narrow model, unless OMP_NUM_THREADS is set.  Its operations end before more threads have woken.

    Time on two threads divided by time on one:     d_model 128    256    512
        a rollout                                           1.7    1.2    0.8
        a forward and backward pass                         1.0    0.8    0.6"""
    if d_model < 256 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def load(name_or_path: str | Path, device="cpu", dtype=torch.float32) -> Transformer:
    """The model of a folder in Hugging Face format, or of a hub id.

    FileNotFoundError: a file is missing.  ValueError: this decoder cannot run the model."""
    folder = weights.find_folder(name_or_path)
    raw = weights.read_json(folder / "config.json")
    config = Config(**weights.read_config(raw, str(folder / "config.json")))
    with torch.device("meta"):  # shapes only, so that the weights exist once
        transformer = Transformer(config)
    shapes = {name: parameter.shape for name, parameter in transformer.named_parameters()}
    state = weights.read_state(folder, shapes, config.family, config.tied, device, dtype)
    transformer.load_state_dict(state, assign=True)
    transformer.original_config = raw
    return transformer


def save(transformer: Transformer, folder: str | Path, state: dict[str, Tensor] | None = None) -> None:
    """Write config.json and model.safetensors so that `load` and transformers read the same model back.

    With --shard the transformer holds only a part of the weights, and `state` has all of them (engine/distributed.py)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights.write_state(folder, state or transformer.state_dict(), transformer.config.family)
    raw = transformer.original_config | weights.write_config(transformer.config)  # keeps token ids
    raw |= {name: str(transformer.embed.weight.dtype).removeprefix("torch.") for name in ("dtype", "torch_dtype")}
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
