"""Load everything that a run needs, from its newest checkpoint with --resume.  All mistakes of a user are found here."""

import copy
from pathlib import Path

import torch

import baselines
import config
import model
import sample
import tasks
import temperature_head
import tokenizer
from display import curves
from engine import distributed
from engine.memory import rows_at_once
from files import weights
from trainer import checkpoint, checks
from trainer.run import Run


def prepare(c: config.Config) -> Run:
    """A run, fully checked and ready for its first step.  ValueError, OSError: a user's mistake, in one line."""
    checks.validate(c)
    c.reward = c.reward and str(Path(c.reward).absolute())  # eval.py may run elsewhere
    c.template = tasks.read_template(c.template)  # store a file's text, so that the run's folder can be moved
    folder, c.device = Path(c.out), distributed.start(model.choose_device(c.device))
    checkpoint.lock(folder)
    if c.resume:
        curves.read_json(folder / "before.json")  # the table at the end needs it
        checkpoint.check_same(folder, c.settings(), config.Config().settings())
    source = checkpoint.whole_checkpoints(folder)[-1] if c.resume else weights.find_folder(c.model)
    vocabulary = tokenizer.load(source)
    if not tasks.stop_ids(vocabulary):
        raise ValueError(f"{source} names no end-of-text token (eos_token_id), so no completion could end")
    chosen = choose_problems(c, vocabulary)
    training, held_out = chosen.training, [problem for problem, _ in chosen.held_out]
    length = c.max_new_tokens or max(tasks.completion_length(p) for p in (training[0][0], held_out[0]))
    transformer, policy, reference = load_policies(c, source)
    model.choose_threads(transformer.config.d_model)
    sampler = distributed.shard(transformer, c.device) if c.shard else transformer
    prompts = [ids for _, ids in training + chosen.held_out]
    longest = sample.check_lengths(transformer, prompts, length)
    c.rollout_rows = c.rollout_rows or rows_at_once(sampler, longest + length)  # stored for --resume: it moves draws
    # On CUDA a step that is not `fused` needs one more copy of the weights.
    how = dict(weight_decay=0.0, fused=c.device.startswith("cuda"))
    optimizers = {"token": torch.optim.AdamW(transformer.parameters(), lr=c.token_lr, **how)}
    if policy.learns and list(policy.parameters()):
        optimizers["temperature"] = torch.optim.AdamW(policy.parameters(), lr=c.temperature_lr, **how)
    if c.resume:
        first_step = checkpoint.resume(folder, optimizers)
    else:
        first_step = checkpoint.begin(folder, transformer, c.keep_checkpoints)
        if distributed.is_first() and not tasks.task_of(held_out[0]) and not c.dry_run:
            tasks.write_jsonl(folder / weights.HELD_OUT, held_out)
    return Run(
        c, vocabulary, training, held_out, chosen.said, transformer, sampler, policy, reference, optimizers, first_step,
        length,
    )  # fmt: skip


def choose_problems(c: config.Config, vocabulary) -> tasks.Chosen:
    """Problems to train on and held-out ones.  No problem is in both, and no prompt is too long."""
    chosen = tasks.load_apart(
        c.task, c.eval_task, c.final_problems, lambda p: tasks.render(p, vocabulary, c.prompt), c.max_prompt_tokens
    )
    if len(chosen.training) < c.prompts_per_step or not chosen.held_out:
        raise ValueError(f"{chosen.said}; a step needs {c.prompts_per_step} and an evaluation at least 1")
    return chosen


def load_policies(c: config.Config, source: Path):
    """The token policy, the temperature policy, and with a KL penalty the initial token policy, else None."""
    # Master weights are float32, because a step of 1e-6 must arrive.  With --shard each layer moves to the device alone.
    transformer = model.load(source, "cpu" if c.shard else c.device)
    transformer.compute_dtype = torch.bfloat16 if c.device.startswith("cuda") else None
    transformer.checkpointing = c.checkpointing
    reference = None
    if c.kl:
        reference = model.load(c.model, c.device) if c.resume else copy.deepcopy(transformer).to(c.device)
        reference.compute_dtype = transformer.compute_dtype
    if not baselines.learns(c.policy):
        return transformer, baselines.make(c.policy), reference
    if (source / temperature_head.FILE).is_file():
        policy = baselines.make(c.policy, source, c.device)
        kind, settings, _ = baselines.parse(c.policy)
        asked: dict = settings | {
            "kind": kind,
            "tau_min": c.tau_min,
            "tau_max": c.tau_max,
            "tau_initial": c.tau_initial,
        }
        holds: dict = {"kind": policy.kind} | policy.settings
        if different := [f"{name} {holds[name]}" for name in asked if holds.get(name, asked[name]) != asked[name]]:
            raise ValueError(
                f"{source} has a temperature policy with {', '.join(different)}: give the same values to --policy, --tau-min, "
                f"--tau-max and --tau-initial, or remove {temperature_head.FILE} to begin with a new policy"
            )
        return transformer, policy, reference
    if c.resume:
        raise ValueError(
            f"{source / temperature_head.FILE}: missing; remove {source} to continue from the checkpoint before it"
        )
    torch.manual_seed(c.seed)
    policy = baselines.begin(
        c.policy, transformer.config.d_model, c.tau_min, c.tau_max, c.tau_initial, concentration=c.concentration
    )
    return transformer, policy.to(c.device), reference
