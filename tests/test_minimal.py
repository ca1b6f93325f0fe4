"""minimal.py is the method that train.py runs: the same log-probabilities, gradients and cache, and where it ends."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import baselines
import eval as evaluation
import minimal
import model
import rl
import sample
import tasks
import temperature_head
import tokenizer
from engine.gradient import FastGradient

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def parts():
    """The embedded model, a lively head in both forms, and a rollout of minimal.py with its Rollout."""
    torch.manual_seed(0)
    transformer, vocabulary = model.load(ROOT / "models/modular"), tokenizer.load(ROOT / "models/modular")
    head = minimal.Head(transformer.config.d_model)
    with torch.no_grad():
        head.w2.weight.mul_(40)
    ours = temperature_head.TemperatureHead(transformer.config.d_model, minimal.TAU_MIN, minimal.TAU_MAX)
    ours.load_state_dict(head.state_dict())
    problems = [p for p in tasks.load("modular", "train", 6) for _ in range(4)]
    prompts = [tasks.render(problem, vocabulary) for problem in problems]
    assert len({len(ids) for ids in prompts}) > 1, "the test wants ragged prompts"
    r = minimal.sample(transformer, head, prompts, torch.tensor(sorted(tasks.stop_ids(vocabulary))))
    assert r["tau"][r["mask"]].std() > 0.2 and 0 < r["mask"].float().mean() < 1
    return transformer, head, ours, prompts, r, as_rollout(prompts, r)


def as_rollout(prompts, r) -> sample.Rollout:
    lengths, steps = torch.tensor([len(ids) for ids in prompts]), r["y"].shape[1]
    columns = (lengths[:, None] + torch.arange(steps))[r["mask"]]
    row = r["mask"].nonzero()[:, 0]

    def place(values):
        into = values.new_zeros(len(prompts), int(lengths.max()) + steps, *values.shape[2:])
        return into.index_put((row, columns), values[r["mask"]])

    tokens = place(r["y"])
    for at, ids in enumerate(prompts):
        tokens[at, : len(ids)] = torch.tensor(ids)
    names = ("tau", "c", "z", "log_p_token", "log_p_tau")
    nothing = torch.zeros(tokens.shape)
    return sample.Rollout(
        tokens, lengths, place(r["mask"]), *map(place, map(r.get, names)), nothing, r["finished"], reads=place(r["h"])
    )


def test_both_record_the_log_probs_that_training_computes(parts):
    transformer, head, ours, prompts, r, rollout = parts
    with torch.no_grad():
        again = minimal.token_log_prob(transformer, prompts, r, torch.arange(len(prompts)))
        of_train = rl.token_log_probs(transformer, rollout)[rollout.mask]
        torch.testing.assert_close(again[r["mask"]], of_train, rtol=0, atol=1e-5)
        torch.testing.assert_close(r["log_p_token"][r["mask"]], of_train, rtol=0, atol=1e-4)
        action = temperature_head.Action(rollout.temperatures, rollout.changed, rollout.z)
        of_train = ours.log_prob(rollout.reads, action)[rollout.mask]
        torch.testing.assert_close(head.log_prob(r["h"], r["c"], r["z"])[r["mask"]], of_train, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(r["log_p_tau"][r["mask"]], of_train, rtol=1e-4, atol=1e-4)


def test_its_states_are_those_of_whole_rows(parts):
    transformer, _, _, _, r, rollout = parts
    with torch.no_grad():
        whole = transformer(rollout.tokens)[:, :-1][rollout.mask[:, 1:]]
    torch.testing.assert_close(r["h"][r["mask"]], whole, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("side", ["token", "temperature"])
def test_its_steps_are_those_of_train(parts, side):
    transformer, head, ours, prompts, r, rollout = parts
    advantage = torch.randn(len(prompts), generator=torch.Generator().manual_seed(1))
    settings, moved = rl.StepSettings(clip_low=minimal.CLIP, clip_high=minimal.CLIP), []
    for is_minimal in (True, False):
        module = model.load(ROOT / "models/modular") if side == "token" else (head if is_minimal else ours)
        before = {name: value.clone() for name, value in module.state_dict().items()}
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        if is_minimal and side == "token":
            log_prob_of = functools.partial(minimal.token_log_prob, module, prompts, r)
            minimal.step(optimizer, log_prob_of, r["log_p_token"], advantage[:, None], r["mask"])
        elif is_minimal:

            def log_prob_of(rows, module=module):
                return module.log_prob(r["h"][rows], r["c"][rows], r["z"][rows])

            minimal.step(optimizer, log_prob_of, r["log_p_tau"], advantage[:, None], r["mask"])
        elif side == "token":
            rl.token_step(module, optimizer, rollout, advantage, settings, engine=FastGradient())
        else:
            rl.temperature_step(module, optimizer, rollout, advantage, settings, FastGradient())
        moved.append(torch.cat([(value - before[name]).flatten() for name, value in module.state_dict().items()]))
        module.load_state_dict(before)
    assert moved[0].norm() > 1e-3
    assert (moved[0] - moved[1]).norm() < 1e-3 * moved[0].norm()


def test_its_settings_are_those_of_the_default_run():
    import config

    c = config.Config()
    of_train = (c.prompts_per_step, c.samples_per_prompt, c.steps, c.tau_min, c.tau_max, c.token_lr, c.temperature_lr)
    of_train += (c.temperature_epochs, c.token_epochs, c.clip_low, c.clip_high, c.max_grad_norm)
    m = minimal
    of_page = (m.P, m.G, m.STEPS, m.TAU_MIN, m.TAU_MAX, m.TOKEN_LR, m.HEAD_LR, m.HEAD_EPOCHS, 1, m.CLIP, m.CLIP, 1.0)
    assert of_page == of_train and tasks.completion_length(tasks.load("modular", "train", 1)[0]) == m.LENGTH
    torch.manual_seed(3)
    head = minimal.Head(8)
    torch.manual_seed(3)
    ours = temperature_head.TemperatureHead(8, m.TAU_MIN, m.TAU_MAX)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(head.state_dict()[name], value)


def test_it_is_a_page_and_a_command():
    assert len((ROOT / "minimal.py").read_text().splitlines()) <= 150
    done = subprocess.run([sys.executable, "minimal.py", "1"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("step 0  reward 0."), done.stderr


@pytest.mark.slow
def test_it_ends_where_train_ends():
    """Three seeds of train.py end at 8.2 to 8.8 in Avg@8 and 27.8 to 32.0 in Pass@8, at temperature 1 at 7.2 to 8.1 (before: 3.4).
    Greedy answers are a habit that a seed may keep: minimal.py's seed has 8.9/34.8, and greedily 7.2.  Eight minutes."""
    transformer, head = minimal.main()
    ours = temperature_head.TemperatureHead(transformer.config.d_model, minimal.TAU_MIN, minimal.TAU_MAX)
    ours.load_state_dict(head.state_dict())
    vocabulary, problems = tokenizer.load(ROOT / "models/modular"), tasks.load("modular", "test", 1000)
    found = evaluation.evaluate(transformer, vocabulary, ours, problems, 8, minimal.LENGTH).summary()
    tokens = evaluation.evaluate(transformer, vocabulary, baselines.make("1.0"), problems, 8, minimal.LENGTH).summary()
    print(found, tokens["Avg@8"])
    assert tokens["Avg@8"] > 0.045, "the tokens learned: 0.034 before"
    assert 0.075 < found["Avg@8"] < 0.1 and 0.26 < found["Pass@8"] < 0.37
