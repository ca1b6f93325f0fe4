"""Sampling from the hierarchical policy: at every step first a temperature, then a token.

    pi(y, tau | x) = prod_t  pi_phi(tau_t | h_t, tau_{t-1}) * pi_theta(y_t | h_t, tau_t)

`generate` is that product as a loop.  A `Rollout` holds everything that was drawn, with the probabilities that training needs.
`PlainEngine` shows what the loop calls.  The default, engine/sampling.py, does the same many times faster.

    python sample.py --model DIR --prompt "..."       stream one completion, coloured by temperature
"""

import argparse
import codecs
import sys
from dataclasses import dataclass, fields, replace

from engine import environment  # isort: skip
import torch
from torch import Tensor

from engine.sampling import FastEngine
from token_policy import cut, sample_token


@dataclass
class Rollout:
    """B completions.  Column t of every (B, T) field describes the draw of token t."""

    tokens: Tensor  # (B, T) int64: prompt, completion, then padding on the right
    prompt_lengths: Tensor  # (B,)
    mask: Tensor  # (B, T) bool: True where the token was sampled, the end-of-text token included
    temperatures: Tensor  # (B, T) tau_t
    changed: Tensor  # (B, T) bool, c_t
    z: Tensor  # (B, T) z_t
    token_log_probs: Tensor  # (B, T) log pi_theta(y_t | h_t, tau_t)
    temperature_log_probs: Tensor  # (B, T) log pi_phi(tau_t | h_t, tau_{t-1})
    entropies: Tensor  # (B, T) H_t in nats, at tau = 1 and after a cut: the model's own uncertainty
    finished: Tensor  # (B,) bool: an end-of-text token was drawn; False: truncated
    margins: Tensor | None = None  # (B, T) with a cut: tokens this far below the largest logit are removed
    rest: Tensor | None = None  # (B, T) 1 - z_t, exact near z = 1
    reads: Tensor | None = None  # (B, T, d) what the policy read, usually h_t, the output at t - 1; on the CPU
    likelihood: Tensor | None = None  # (B, T, K) pi_theta(y_t | h_t, tau_k): engine/marginal.py

    def rows(self, index: Tensor) -> "Rollout":
        """These rows, without trailing columns that none of them uses."""
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
        raise ValueError(f"cannot join rollouts with {mixed[0]} and rollouts without")
    return Rollout(**{n: None if v[0] is None else torch.cat([widen(x) for x in v]) for n, v in columns.items()})


def check_lengths(transformer, prompts: list[list[int]], max_new_tokens: int) -> int:
    """The longest prompt's length.  ValueError: a prompt is empty, has unknown token ids, or exceeds the model's context."""
    if not prompts or min(map(len, prompts)) == 0 or max_new_tokens < 1:
        raise ValueError("sampling needs at least one token in each prompt and at least one new token")
    if max(map(max, prompts)) >= transformer.config.vocab_size:
        raise ValueError("the tokenizer has more tokens than the model: the folder mixes the files of two models")
    longest, context = max(map(len, prompts)), transformer.config.max_length
    if longest + max_new_tokens > context:
        raise ValueError(
            f"a prompt of {longest} tokens and {max_new_tokens} new tokens exceed the model's context of {context}; "
            "lower --max-new-tokens, or --max-prompt-tokens"
        )
    return longest


class PlainEngine:
    """The engine to read.  Without a cache, every step reads whole rows again."""

    draw = staticmethod(sample_token)

    def __init__(
        self, transformer, prompts: list[list[int]], samples: int, max_new_tokens: int, layer=None, eager=False
    ):
        self.transformer, self.layer = transformer, layer
        self.rows = [list(prompt) for prompt in prompts for _ in range(samples)]

    def prefill(self) -> Tensor:
        """h_1 (B, d_model).  `inner` is what policies read: h_t, or the state after `layer` layers."""
        longest, device = max(map(len, self.rows)), self.transformer.device
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in self.rows], device=device)
        last = torch.arange(len(tokens)), [len(row) - 1 for row in self.rows]
        with self.transformer.autocast():
            hidden = self.transformer(tokens)[last]
            self.inner = hidden if self.layer is None else self.transformer(tokens, layers=self.layer)[last]
        return hidden

    def unembed(self, hidden: Tensor) -> Tensor:
        """(n, d_model) -> logits (n, V)."""
        return self.transformer.unembed(hidden)

    def drop(self, going: Tensor) -> Tensor:
        """Remove finished rows, where going (n,) is False -> the places of the rows that stay."""
        left = going.nonzero()[:, 0]
        self.rows = [self.rows[place] for place in left.tolist()]
        return left

    def step(self, token: Tensor) -> Tensor:
        """Append token (n,) to each row -> h_t (n, d_model), from which the next one is drawn."""
        for row, new in zip(self.rows, token.tolist()):
            row.append(new)
        return self.prefill()


@torch.inference_mode()
def generate(
    transformer, policy, prompts: list[list[int]], samples_per_prompt: int, max_new_tokens: int, eos_ids: set[int],
    generator: torch.Generator | None = None, keep_reads: bool = False, on_token=None, stop=None, engine=FastEngine,
) -> Rollout:  # fmt: skip
    """Sample `samples_per_prompt` completions of each prompt; the samples of a prompt are neighbouring rows.

    policy: a temperature_head.Policy.  keep_reads: store what it read.  on_token(step, tokens, temperatures) sees every step.
    """
    longest, device = check_lengths(transformer, prompts, max_new_tokens), transformer.device
    looks = [look for look in (on_token, policy.see) if look is not None]
    engine = engine(transformer, prompts, samples_per_prompt, max_new_tokens, policy.layer, eager=bool(looks))
    hidden, eos = engine.prefill(), torch.tensor(sorted(eos_ids), device=device)  # (B, d_model) h_1
    rows = torch.arange(len(hidden), device=device)  # (n,) the rows in the engine
    going = torch.ones_like(rows, dtype=torch.bool)  # (n,) False: finished
    tau = torch.full((len(rows),), float(policy.tau_initial), device=device)  # tau_0
    drawn = []
    for step in range(max_new_tokens):
        logits = engine.unembed(hidden)  # (n, V)
        margin = cut(logits, policy.min_p, policy.top_p)
        reads = policy.reads(engine.inner, logits)  # (n, d)
        action = policy.act(reads, tau, logits=logits, step=step, generator=generator)
        tau = action.temperature  # tau_t ~ pi_phi
        token, log_prob, entropy = engine.draw(logits, tau, generator)  # y_t ~ pi_theta
        ends = (token[:, None] == eos).any(1) if stop is None else stop.ended(step, rows, token)  # problems/stops.py
        drawn.append((rows, going, token, ends, action, log_prob, entropy, margin, reads if keep_reads else None))
        for look in looks:
            look(step, token, tau)
        going = going & ~ends
        left = engine.drop(going)
        if left is not None:
            rows, token, tau, going = rows[left], token[left], tau[left], going[left]
        if len(rows) == 0 or step + 1 == max_new_tokens:
            break
        hidden = engine.step(token)
    return assemble(prompts, samples_per_prompt, longest, drawn)


@torch.inference_mode(False)  # so that training reads ordinary tensors
@torch.no_grad()
def assemble(prompts: list[list[int]], samples: int, longest: int, drawn: list[tuple]) -> Rollout:
    """Put what each step drew after its row's prompt."""
    rows, going, tokens, ends, actions, log_probs, entropies, margins, reads = zip(*drawn)
    device, steps = tokens[0].device, len(drawn)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device).repeat_interleave(samples)  # (B,)
    padded = torch.tensor([prompt + [0] * (longest + steps - len(prompt)) for prompt in prompts], device=device)
    row, kept = torch.cat(rows), torch.cat(going)  # without what a row drew after its end
    step = torch.cat([torch.full_like(of_step, number) for number, of_step in enumerate(rows)])
    where = row[kept], (lengths[row] + step)[kept]  # the row and column of each token

    def place(values, into=None) -> Tensor | None:
        if values[0] is None:
            return None
        values = torch.cat(values)[kept]
        into = values.new_zeros(len(lengths), longest + steps, *values.shape[1:]) if into is None else into
        return into.index_put_(where, values)

    read = place(reads)
    return Rollout(
        tokens=place(tokens, into=padded.repeat_interleave(samples, dim=0)),
        prompt_lengths=lengths,
        mask=place(going),
        temperatures=place([action.temperature for action in actions]),
        changed=place([action.changed for action in actions]),
        z=place([action.z for action in actions]),
        token_log_probs=place(log_probs),
        temperature_log_probs=place([action.log_prob for action in actions]),
        entropies=place(entropies),
        finished=place(ends).any(1),
        margins=place(margins),
        rest=place([1 - action.z if action.rest is None else action.rest for action in actions]),
        reads=None if read is None else read.cpu(),  # larger than all other fields together, and read only once
    )


# ---- the command line ---------------------------------------------------------------------------------------------


def main() -> None:
    import baselines
    import model
    import tasks
    import tokenizer
    from display.terminal import colour, visible
    from files import weights

    parser = argparse.ArgumentParser(description="Stream one completion, each token coloured by its temperature.")
    parser.error = lambda message: parser.exit(2, f"sample.py: {message}; --help lists the flags\n")
    flag = parser.add_argument
    flag("--model", default="models/modular", help="a run's or Hugging Face folder, hub id or id@revision")
    flag("--prompt", required=True, help='a problem, such as "5,+7,-4,*3=32:" for the embedded model')
    flag("--policy", default="", help="own, greedy, 0.7, ead, edt; default: the run's, else 1.0")
    flag("--max-new-tokens", type=int, default=0, help="longest completion; 0: 1024, or what fits the context")
    flag("--template", default=None, help="auto, raw, plain, chat, chat-thinking, or a file with {problem}; default: as the run was trained")  # fmt: skip
    flag("--system", default=None, help="the system turn of a chat")
    flag("--instruction", default=None, help="text after the problem, in plain and chat")
    flag("--stop", default=None, help="a text that ends the completion, such as \\n")
    flag("--seed", type=int, default=0, help="the same seed gives the same completion")
    flag("--device", default="auto", help="auto, cpu, cuda or mps")
    environment.ready()
    arguments = parser.parse_args()
    try:
        if not arguments.prompt.strip():
            raise ValueError("--prompt is empty")
        device = model.choose_device(arguments.device)
        folder = weights.find_folder(arguments.model)
        transformer, vocabulary = model.load(folder, device), tokenizer.load(folder)
        transformer.compute_dtype = torch.bfloat16 if device.startswith("cuda") else None  # as train.py and eval.py
        model.choose_threads(transformer.config.d_model)
        policy = baselines.make(arguments.policy, folder, device)
        asked_how = {name: getattr(arguments, name) for name in ("template", "system", "instruction", "stop")}
        how = tasks.trained_prompt(weights.trained_with(folder), **asked_how)
        prompt, eos = tasks.render(arguments.prompt, vocabulary, how), tasks.stop_ids(vocabulary)
        stop = tasks.stop_of(vocabulary, tasks.stops_of(arguments.prompt, how))
        generator = torch.Generator(device).manual_seed(arguments.seed)
        length = arguments.max_new_tokens or max(1, min(1024, transformer.config.max_length - len(prompt)))
        decoder, taus = codecs.getincrementaldecoder("utf-8")("replace"), []  # a token may be half a character

        def stream(step: int, token: Tensor, temperature: Tensor) -> None:
            taus.append(float(temperature[0]))
            if int(token[0]) not in eos:
                text = visible(decoder.decode(vocabulary.token_bytes(int(token[0]))))
                print(colour(text, taus[-1]) if sys.stdout.isatty() else text, end="", flush=True)

        generate(transformer, policy, [prompt], 1, length, eos, generator, on_token=stream, stop=stop)
    except (ValueError, OSError) as error:
        print(visible(f"sample.py: {error}"), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"\n[{len(taus)} tokens, mean temperature {sum(taus) / len(taus):.2f}, {min(taus):.2f} to {max(taus):.2f}]")


if __name__ == "__main__":
    main()
