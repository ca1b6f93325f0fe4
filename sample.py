"""Sampling from the hierarchical policy: at every step first a temperature, then a token.

    pi(y, tau | x) = prod_t  pi_phi(tau_t | h_t, tau_{t-1}) * pi_theta(y_t | h_t, tau_t)

`generate` is that product as a loop; a `Rollout` is everything it drew, with the probabilities that training needs.
`python sample.py --model DIR --prompt "..."` streams one completion, each token coloured by its temperature.
"""

import argparse
import codecs
import os
import sys
from dataclasses import dataclass, fields, replace

# Older torch has no gamma sampler for Apple's GPU: that op runs on the CPU.  Threads that spin starve each other.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
import torch.nn.functional as F
from torch import Tensor

import model
import policies
import tasks
import tokenizer
from engine.attention import Cache
from engine.decoder import Decoder, Graph, can_capture, fused
from files import weights
from temperature_head import Action, TemperatureHead
from token_policy import sample_token

TemperatureHead.fused = staticmethod(fused)  # on CUDA its `act` is compiled; the file of its own stands alone

# Worked on at once: on a CPU so little that it is still in the cache for the next pass over it; elsewhere as much as keeps it
# busy, since activations of 512 long prompts would not fit.
PROMPT_TOKENS_AT_ONCE = {"cpu": 2**11, "mps": 2**13, "cuda": 2**15}


@dataclass
class Rollout:
    """B completions.  Index t of every (B, T) field speaks of token t: how it was drawn, not what it led to."""

    tokens: Tensor  # (B, T) int64: prompt, completion, then padding on the right
    prompt_lengths: Tensor  # (B,)
    mask: Tensor  # (B, T) bool: True where the token was sampled, the end-of-text token included
    temperatures: Tensor  # (B, T) tau_t
    changed: Tensor  # (B, T) bool, c_t
    z: Tensor  # (B, T) z_t
    token_log_probs: Tensor  # (B, T) log pi_theta(y_t | h_t, tau_t)
    temperature_log_probs: Tensor  # (B, T) log pi_phi(tau_t | h_t, tau_{t-1})
    entropies: Tensor  # (B, T) nats, of softmax(logits) whatever tau_t was, after a cut: the model's own uncertainty
    finished: Tensor  # (B,) bool: an end-of-text token was drawn; False means truncated
    margins: Tensor | None = None  # (B, T) where the policy cuts: logits further below the largest are out
    hidden: Tensor | None = None  # (B, T, d_model) h_t, which drew token t: the model's output at t - 1; on the CPU

    def rows(self, index: Tensor) -> "Rollout":
        """These rows, without the columns that none of them uses."""
        used = 1 + int(self.mask[index].any(0).nonzero().max())
        chosen = {f.name: getattr(self, f.name) for f in fields(self)}
        chosen = {n: v[:, :used] if v.dim() > 1 else v for n, v in chosen.items() if v is not None}
        return replace(self, **{n: v.index_select(0, index.to(v.device)) for n, v in chosen.items()})

    def completions(self) -> list[list[int]]:
        """Token ids of each row's completion, without the token that ended it."""
        ids = [row[keep].tolist() for row, keep in zip(self.tokens, self.mask)]
        return [row[:-1] if whole else row for row, whole in zip(ids, self.finished.tolist())]


def join(rollouts: list[Rollout]) -> Rollout:
    """One rollout of all rows, padded to the widest."""
    width = max(rollout.tokens.shape[1] for rollout in rollouts)

    def widen(value: Tensor) -> Tensor:
        missing = width - value.shape[1] if value.dim() > 1 else 0
        return torch.cat((value, value.new_zeros(len(value), missing, *value.shape[2:])), dim=1) if missing else value

    columns = {f.name: [getattr(rollout, f.name) for rollout in rollouts] for f in fields(Rollout)}
    if mixed := [n for n, v in columns.items() if 0 < sum(x is None for x in v) < len(v)]:
        raise ValueError(f"rollouts of which some have {mixed[0]} and some have none cannot be joined")
    return Rollout(**{n: None if v[0] is None else torch.cat([widen(x) for x in v]) for n, v in columns.items()})


def check_lengths(transformer, prompts: list[list[int]], max_new_tokens: int) -> int:
    """The longest prompt's length; ValueError where a prompt is empty, foreign, or too long for the model's context."""
    if not prompts or min(map(len, prompts)) == 0 or max_new_tokens < 1:
        raise ValueError("sampling needs prompts of at least one token, and at least one new token")
    if max(map(max, prompts)) >= transformer.config.vocab_size:
        raise ValueError("the tokenizer has more tokens than the model: its folder mixes two models' files")
    longest, context = max(map(len, prompts)), transformer.config.max_length
    if longest + max_new_tokens > context:
        raise ValueError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones pass the model's context of {context}; "
            "lower --max-new-tokens or leave the longest prompts out"
        )
    return longest


def rows_at_once(transformer, length: int, gibibytes: float = 16.0) -> int:
    """How many rows of `length` tokens have their keys and values in so much memory; 512 at most, 1 at least."""
    c = transformer.config
    bytes_per_number = (transformer.compute_dtype or transformer.embed.weight.dtype).itemsize
    bytes_per_row = 2 * c.n_layers * c.n_kv_heads * c.d_head * bytes_per_number * length
    return max(1, min(512, int(gibibytes * 2**30 / bytes_per_row)))


@torch.inference_mode()
def generate(
    transformer,
    policy,
    prompts: list[list[int]],
    samples_per_prompt: int,
    max_new_tokens: int,
    eos_ids: set[int],
    generator: torch.Generator | None = None,
    keep_hidden: bool = False,
    on_token=None,
) -> Rollout:
    """Sample `samples_per_prompt` completions of each prompt; a prompt's samples are neighbouring rows.

    policy: anything with `act` and `tau_initial` (temperature_head.py, baselines.py).  `keep_hidden` stores h_t for the
    training of the head; `on_token(step, tokens, temperatures)` sees every step as it happens, and so does a policy's
    `see`, where it has one.

    At each step the rows that have not ended draw, in their order: first the policy, then the tokens.  (On CUDA those that
    have ended draw along until enough of them leave together; what they draw is dropped.)
    """
    longest, device = check_lengths(transformer, prompts, max_new_tokens), transformer.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    tokens = torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt in prompts], device=device)
    eos = torch.tensor(sorted(eos_ids), device=device)
    on_cuda, decoder = can_capture(device), Decoder(transformer)
    looks = [look for look in (on_token, getattr(policy, "see", None)) if look is not None]
    # Steps between looks at who has ended, as a GPU would wait for each; and the share that stays where none leave, as leaving
    # costs a new graph there.  Whoever sees each step sees rows leave at once.
    patience, enough = (16, 0.8) if on_cuda and not looks else (1, 1.0)
    cache = Cache(lengths, samples_per_prompt, max_new_tokens, decoder.dtype, stride=256 if on_cuda else 1)
    at_once = max(1, PROMPT_TOKENS_AT_ONCE[device.type] // longest)  # prompts
    decode = Graph(decoder, cache) if on_cuda else lambda token: decoder(token, cache)
    with transformer.autocast():
        parts = zip(tokens.split(at_once), lengths.split(at_once))
        last = [transformer(part, cache)[torch.arange(len(part)), length - 1] for part, length in parts]  # read once
    hidden = torch.cat(last).repeat_interleave(samples_per_prompt, dim=0)  # (B, d_model)
    rows = torch.arange(len(hidden), device=device)  # the n rows that are still written
    going = torch.ones_like(rows, dtype=torch.bool)  # (n,) all of them, but between two looks
    temperature = torch.full((len(rows),), float(policy.tau_initial), device=device)  # tau_0
    finished, steps = torch.zeros_like(going), []
    for step in range(max_new_tokens):
        hidden = hidden.to(decoder.dtype, copy=on_cuda)  # what is stored is what the head sees
        logits = decoder.unembed(hidden)  # (n, V), read from h_t
        action = policy.act(hidden, temperature, logits=logits, step=step, generator=generator)
        temperature = action.temperature  # tau_t ~ pi_phi
        token, log_prob, entropy = sample_token(logits, temperature, generator)  # y_t ~ pi_theta
        steps.append((rows, going, token, action, log_prob, entropy, hidden if keep_hidden else None))
        for look in looks:
            look(step, token, temperature)
        going = going & (token[:, None] != eos).all(1)
        if (step + 1) % patience == 0 or step + 1 == max_new_tokens:
            finished[rows] = ~going
            left = going.nonzero()[:, 0]
            if len(left) == 0:
                break
            if len(left) < enough * len(rows):
                rows, token, temperature, going = rows[left], token[left], temperature[left], going[left]
                cache.keep(left)
        if step + 1 < max_new_tokens:
            hidden = decode(token)
    return assemble(tokens, lengths, samples_per_prompt, steps, finished)


def log_probs_of(actions: tuple[Action, ...]) -> Tensor:
    """log pi_phi of what each step drew, all behind each other: worked out at once, if all steps draw from the same kind."""
    if len({(type(action), action.gate is None) for action in actions}) > 1:
        return torch.cat([action.log_prob for action in actions])
    fields = [None if field[0] is None else torch.cat(field) for field in zip(*actions)]
    return type(actions[0])(*fields).log_prob


@torch.inference_mode(False)  # what training reads is made of ordinary tensors again
@torch.no_grad()
def assemble(prompts: Tensor, lengths: Tensor, samples: int, steps: list, finished: Tensor) -> Rollout:
    """Put what each step drew behind each row's own prompt: prompts (P, L) -> a Rollout of P * samples rows."""
    rows, going, tokens, actions, log_probs, entropies, hidden = zip(*steps)
    lengths = lengths.repeat_interleave(samples)
    step = torch.cat([torch.full_like(of_step, number) for number, of_step in enumerate(rows)])
    row, drawn = torch.cat(rows), torch.cat(going)  # what a row draws after its end is dropped
    where = row[drawn], (lengths[row] + step)[drawn]  # row and column of each token
    shape = len(lengths), prompts.shape[1] + len(steps)

    def place(values, into=None) -> Tensor:
        values = torch.cat(values)[drawn]
        into = values.new_zeros(shape + values.shape[1:]) if into is None else into
        return into.index_put_(where, values)

    padded = F.pad(prompts.repeat_interleave(samples, dim=0), (0, len(steps)))
    return Rollout(
        tokens=place(tokens, into=padded),
        prompt_lengths=lengths,
        mask=place(going),
        temperatures=place([action.temperature for action in actions]),
        changed=place([action.changed for action in actions]),
        z=place([action.z for action in actions]),
        token_log_probs=place(log_probs),
        temperature_log_probs=place([log_probs_of(actions)]),
        entropies=place(entropies),
        finished=finished.clone(),
        margins=None if actions[0].margin is None else place([action.margin for action in actions]),
        hidden=None if hidden[0] is None else place(hidden).cpu(),  # as large as all else together, and read only once
    )


# ---- the command line ---------------------------------------------------------------------------------------------


def colour(text: str, temperature: float, tau_min: float = 0.0, tau_max: float = 1.5) -> str:
    """`text` in ANSI colours from blue (cold) over grey to red (hot)."""
    ramp = (27, 33, 39, 45, 87, 195, 252, 224, 217, 210, 203, 196)  # of the 256-colour palette
    share = (temperature - tau_min) / max(tau_max - tau_min, 1e-6)
    shade = ramp[round(min(max(share, 0.0), 1.0) * (len(ramp) - 1))]
    return f"\x1b[38;5;{shade}m{text}\x1b[0m"


def show(pieces: list[str], temperatures: list[float], colours: bool) -> str:
    """A completion on one line: coloured by temperature, or with the temperature behind each token where there is no
    terminal.

    >>> show(["3", "+"], [0.25, 1.0], colours=False)
    '3[0.25] +[1.00]'
    """
    if colours:
        return "".join(colour(piece, tau) for piece, tau in zip(pieces, temperatures)).replace("\n", " ")
    return " ".join(f"{piece}[{tau:.2f}]" for piece, tau in zip(pieces, temperatures)).replace("\n", " ")


def main() -> None:
    parser = argparse.ArgumentParser(description="Stream one completion, each token coloured by its temperature.")
    parser.error = lambda message: parser.exit(2, f"sample.py: {message}; --help lists the flags\n")
    parser.add_argument(
        "--model", default="models/modular", help="a run's or Hugging Face folder, hub id or id@revision"
    )
    parser.add_argument("--prompt", required=True, help='a problem, such as "5,+7,-4,*3=32:" for the embedded model')
    parser.add_argument("--policy", default="", help="own, greedy, 0.7, ead, edt; none: that of the run, or 1")
    parser.add_argument(
        "--max-new-tokens", type=int, default=0, help="stop after so many; 0: 1024, or the context's end"
    )
    parser.add_argument(
        "--template",
        default="auto",
        help="auto (as a run was trained), raw, plain, chat, chat-thinking: how a problem is asked",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same completion")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    arguments = parser.parse_args()
    try:
        device = model.choose_device(arguments.device)
        folder = weights.find_folder(arguments.model)
        transformer, vocabulary = model.load(folder, device), tokenizer.load(folder)
        transformer.compute_dtype = torch.bfloat16 if device.startswith("cuda") else None  # as train.py and eval.py
        model.choose_threads(transformer.config.d_model)
        policy = policies.make(arguments.policy, folder, device)
        ran = weights.trained_with(folder)
        template = ran.get("template", "auto") if arguments.template == "auto" else arguments.template
        prompt = tasks.render(arguments.prompt, vocabulary, template)
        generator, stop = torch.Generator(device).manual_seed(arguments.seed), tasks.stop_ids(vocabulary)
        length = arguments.max_new_tokens or max(1, min(1024, transformer.config.max_length - len(prompt)))
        decoder, taus = codecs.getincrementaldecoder("utf-8")("replace"), []  # a token may be half a character

        def stream(step: int, token: Tensor, temperature: Tensor) -> None:
            taus.append(float(temperature[0]))
            if int(token[0]) not in stop:
                text = decoder.decode(vocabulary.token_bytes(int(token[0])))
                print(colour(text, taus[-1]) if sys.stdout.isatty() else text, end="", flush=True)

        generate(transformer, policy, [prompt], 1, length, stop, generator, on_token=stream)
    except (ValueError, OSError) as error:
        print(f"sample.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"\n[{len(taus)} tokens, mean temperature {sum(taus) / len(taus):.2f}, {min(taus):.2f} to {max(taus):.2f}]")


if __name__ == "__main__":
    main()
