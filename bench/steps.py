"""Training steps beside TRL's GRPOTrainer, and the time and memory of log-probabilities."""

import argparse
import contextlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import rl
import sample
from bench.timing import has, head_for, in_turn, make, prompts_of, ratio, seconds, theirs
from engine.gradient import FastGradient


class Step:
    """A GRPO step of ours: both policies are trained, and each part is timed."""

    def __init__(self, shape: str, device: str, count: int, samples: int, length: int, new: int, budget: int):
        self.transformer, self.device, self.shape = make(shape, device), device, (count, samples, new)
        self.head, vocabulary = head_for(self.transformer), self.transformer.config.vocab_size
        self.prompts = prompts_of(count, length, vocabulary)
        self.optimizers = [
            torch.optim.AdamW(m.parameters(), lr=1e-6, fused=device == "cuda") for m in (self.transformer, self.head)
        ]
        self.engine, self.eos = FastGradient(budget), {vocabulary - 1}
        self.generator, self.parts = torch.Generator(device).manual_seed(0), []
        self.rollout = None

    def sample(self):
        count, samples, new = self.shape
        self.rollout = sample.generate(
            self.transformer, self.head, self.prompts, samples, new, self.eos, self.generator, keep_reads=True
        )
        rewards = (torch.arange(count * samples, device=self.device) % 3 == 0).float().view(count, samples)
        self.advantage = rl.advantages(rewards).flatten()

    @torch.no_grad()
    def log_probs(self):
        for index, _ in self.engine.micro_batches(self.transformer, self.rollout):
            rl.token_log_probs(self.transformer, self.rollout.rows(index), engine=self.engine)

    def update(self):
        settings = rl.StepSettings()
        rl.token_step(self.transformer, self.optimizers[0], self.rollout, self.advantage, settings, engine=self.engine)

    def update_head(self):
        settings = rl.StepSettings()
        rl.temperature_step(self.head, self.optimizers[1], self.rollout, self.advantage, settings, self.engine)

    def __call__(self) -> float:
        parts = [seconds(part, self.device) for part in (self.sample, self.update, self.update_head)]
        self.parts.append(parts)
        return sum(parts)


def training_step(shape: str, device: str, repeats: int, count=8, samples=8, length=32, new=64) -> list[dict]:
    """Seconds of a GRPO step, ours and TRL's in turn: our step runs in a callback between two of TRL's."""
    ours, device_budget = None, 2048 if device == "cpu" else 16_384
    ours = Step(shape, device, count, samples, length, new, device_budget)
    mine, other = [], []
    if device == "cpu" and has("trl"):
        other = trl_steps(ours, repeats, lambda: mine.append(ours()))[1:]
        mine = mine[1:]
    else:
        mine = [ours() for _ in range(repeats + 1)][1:]
    rollout, update, head = (statistics.median(part) for part in zip(*ours.parts[1:]))
    scoring = statistics.median(in_turn({"": ours.log_probs}, device, max(1, repeats // 2))[""])
    row = {"model": shape, "step s": statistics.median(mine), "rollout s": rollout, "token step s": update}
    row |= {"temperature step s": head, "log-probs alone s": scoring}
    if other:
        row |= {"TRL step s": statistics.median(other), "times TRL": ratio(other, mine)}
    return [row]


def trl_steps(ours: Step, repeats: int, between) -> list[float]:
    """Seconds of each step of GRPOTrainer with the same weights, prompts, lengths, batch and end-of-text token."""
    import datasets
    import tokenizers
    import transformers
    import trl

    (count, samples, new), vocabulary = ours.shape, ours.transformer.config.vocab_size
    words = tokenizers.models.WordLevel({f"w{i}": i for i in range(vocabulary)}, unk_token="w0")
    raw = tokenizers.Tokenizer(words)
    raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    end = f"w{vocabulary - 1}"
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=end, pad_token=end, unk_token="w0")
    texts = [" ".join(f"w{i}" for i in prompt) for prompt in ours.prompts]
    times: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.started = time.process_time()

        def on_step_end(self, *_, **__):
            times.append(time.process_time() - self.started)
            between()

    with tempfile.TemporaryDirectory() as folder:
        settings = trl.GRPOConfig(
            output_dir=folder, per_device_train_batch_size=count * samples, num_generations=samples, max_steps=repeats + 1,
            max_completion_length=new, beta=0.0, learning_rate=1e-6, use_cpu=True, bf16=False, report_to=[],
            logging_steps=10_000, save_strategy="no", gradient_checkpointing=False, disable_tqdm=True, temperature=1.0,
            top_k=0, lr_scheduler_type="constant",
        )  # fmt: skip
        trainer = trl.GRPOTrainer(
            model=theirs(ours.transformer, "cpu"), args=settings, processing_class=tokenizer, callbacks=[Clock()],
            reward_funcs=lambda completions, **_: [float(i % 3 == 0) for i in range(len(completions))],
            train_dataset=datasets.Dataset.from_dict({"prompt": texts * (repeats + 1)}),
        )  # fmt: skip
        with contextlib.redirect_stdout(sys.stderr):  # it prints its own table
            trainer.train()
    return times


# ---- memory ---------------------------------------------------------------------------------------------------------------


def log_probs_of(how: str, tokens: int, width: int, vocabulary: int) -> tuple[float, float]:
    """(CPU seconds, peak GiB above the memory held before) of log-probs and their gradient, in a new process."""
    code = f"from bench import steps; print(*steps.one_log_probs({how!r}, {tokens}, {width}, {vocabulary}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    spent, peak = done.stdout.split()[-2:]
    return float(spent), float(peak)


def one_log_probs(how: str, tokens: int, width: int, vocabulary: int) -> tuple[float, float]:
    torch.set_num_threads(1)
    given = log_prob_problem(tokens, width, vocabulary)
    base = peak_kibibytes()
    spent = seconds(lambda: log_prob_gradient(how, *given), "cpu")
    return spent, (peak_kibibytes() - base) / 2**20


def peak_kibibytes() -> int:
    """This process's peak resident memory. On Linux getrusage would include the parent's, so /proc is read there."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


def log_prob_problem(tokens: int, width: int, vocabulary: int) -> tuple[Tensor, ...]:
    """hidden (N, d) and unembedding (V, d), which require gradients; temperatures, drawn tokens and weights (N,)."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(tokens, width), torch.randn(vocabulary, width) * 0.05
    rest = torch.rand(tokens) + 0.5, torch.randint(vocabulary, (tokens,)), torch.randn(tokens)
    return hidden.requires_grad_(), weight.requires_grad_(), *rest


def log_prob_gradient(how: str, hidden: Tensor, weight: Tensor, tau: Tensor, drawn: Tensor, wanted: Tensor) -> None:
    """The gradient of the sum of wanted * log softmax(hidden weight^T / tau)[drawn], in one of two ways."""
    if how == "in chunks":  # as rl.token_step
        given = Given(hidden, weight)
        rollout = argparse.Namespace(mask=tau > 0, temperatures=tau, tokens=drawn, margins=None)
        (rl.log_probs_of_drawn(given, rollout, given)[0] * wanted).sum().backward()
    else:  # logsumexp - gather
        logits = F.linear(hidden, weight) / tau[:, None]
        log_probs = logits.gather(1, drawn[:, None])[:, 0] - logits.logsumexp(-1)
        (log_probs * wanted).sum().backward()


class Given:
    """As much of a Transformer and of an engine as log-probs of given hidden states need."""

    def __init__(self, hidden: Tensor, weight: Tensor):
        self.hidden, self.weight, self.config = hidden, weight, argparse.Namespace(vocab_size=len(weight))

    def states(self, transformer, rollout) -> Tensor:
        return self.hidden

    def unembed(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight)


def log_prob_choices(tokens: int, width: int, vocabulary: int, repeats: int) -> list[dict]:
    ways = ["logsumexp - gather", "in chunks"]
    runs = {how: [] for how in ways}
    for _ in range(repeats):
        for how in ways:
            runs[how].append(log_probs_of(how, tokens, width, vocabulary))
    first = [spent for spent, _ in runs[ways[0]]]
    return [
        {"vocabulary": vocabulary, "tokens": tokens, "way": how, "s": statistics.median(s for s, _ in found)}
        | {"GiB above base": max(peak for _, peak in found), "times the first": ratio([s for s, _ in found], first)}
        for how, found in runs.items()
    ]


def step_memory(shape: str, budget: int = 16_384) -> list[dict]:
    """Peak memory of a training step with the presets' settings: layers are recomputed in the backward pass.

    The second step is measured: Adam allocates its moments at the end of the first, which is kept short."""
    step = Step(shape, "cuda", 8, 8, 128, 1024, budget)
    step.transformer.checkpointing, step.shape = True, (8, 8, 8)
    step()
    step.shape = 8, 8, 1024
    torch.cuda.reset_peak_memory_stats()
    step()
    return [{"model": shape, "micro-batch tokens": budget, "peak GiB": torch.cuda.max_memory_allocated() / 2**30}]
