"""The temperatures summed out (engine/marginal.py): against enumeration, the sampler's frequencies, and the paper's estimator."""

import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import baselines
import config
import rl
import sample
import temperature_head
import train as training
from engine import marginal
from temperature_head import TemperatureHead
from token_policy import token_policy
from trainer import checks, opening
from trainer.prepare import prepare


def drawn_by(transformer, head, prompts, samples, length, eos=99):
    generator = torch.Generator().manual_seed(0)
    return sample.generate(transformer, head, prompts, samples, length, {eos}, generator, keep_reads=True)


def test_it_sums_over_every_sequence_of_temperatures():
    """Against enumeration: each step keeps the temperature or draws one of three."""
    torch.manual_seed(1)
    opens, likelihood = torch.rand(1, 3, 1), torch.rand(1, 3, 4)
    drawn = torch.cat((torch.rand(1, 3, 3).softmax(-1), torch.zeros(1, 3, 1)), -1)
    total = torch.zeros(3)
    for length in (1, 2, 3):
        for choices in itertools.product([None, 0, 1, 2], repeat=length):
            place, weight = 3, torch.tensor(1.0)
            for step, choice in enumerate(choices):
                share = 1 - opens[0, step, 0] if choice is None else opens[0, step, 0] * drawn[0, step, choice]
                place = place if choice is None else choice
                weight = weight * share * likelihood[0, step, place]
            total[length - 1] += weight
    exact = torch.cat((total[:1], total[1:] / total[:-1])).log()
    torch.testing.assert_close(marginal.forward(opens, drawn, likelihood)[0], exact)


@pytest.mark.parametrize("policy", ["own", "own+min_p=0.2"])
def test_the_likelihood_is_that_of_the_model_at_each_temperature(transformer, policy):
    """Prompts and completions of several lengths; a cut removes the same tokens as it did while sampling."""
    torch.manual_seed(1)
    head = baselines.begin(policy, 16)
    rollout = drawn_by(transformer, head, [[1, 2, 3], [4, 5], [6]], 20, 6, eos=10)
    assert len(set(rollout.mask.sum(1).tolist())) > 2
    explained = marginal.explain(transformer, head, rollout)
    logits = transformer.unembed(transformer(rollout.tokens)[:, :-1]).detach()
    taus = [*(head.tau_min + marginal.grid("cpu") * (head.tau_max - head.tau_min)), torch.tensor(head.tau_initial)]
    margins = None if rollout.margins is None else rollout.margins[:, 1:]
    assert (margins is None) == (policy == "own")
    for k, tau in enumerate(taus):
        log_probs = token_policy(logits, tau.expand(logits.shape[:2]), margins, rollout.tokens[:, 1:])
        expected = log_probs.gather(-1, rollout.tokens[:, 1:, None])[..., 0].exp()
        mask = rollout.mask[:, 1:]
        torch.testing.assert_close(explained.likelihood[:, 1:, k][mask], expected[mask], atol=1e-4, rtol=1e-3)
    assert (explained.likelihood[~rollout.mask] == 1).all()


def test_it_is_the_chance_of_the_tokens(transformer):
    """The share of rollouts that draw a token, and its marginal."""
    torch.manual_seed(2)
    head = TemperatureHead(16, concentration=6.0)
    rollout = marginal.explain(transformer, head, drawn_by(transformer, head, [[1, 2, 3]], 8000, 1))
    first, chance = rollout.tokens[:, 3], rollout.temperature_log_probs[:, 3].exp()
    for token in first.unique():
        share, expected = float((first == token).float().mean()), float(chance[first == token].mean())
        assert abs(share - expected) < 4 * math.sqrt(expected / 8000) + 0.003, (int(token), share, expected)


@pytest.mark.parametrize("kind", [TemperatureHead, temperature_head.NoGateHead])
def test_both_estimators_have_the_same_mean_and_this_one_less_variance(transformer, kind):
    torch.manual_seed(3)
    head, count = kind(16, concentration=6.0), 4000
    rollout = drawn_by(transformer, head, [[1, 2, 3]], count, 3)
    reward = (rollout.tokens[:, 3] % 2 == 0).float() + (rollout.tokens[:, 5] < 4).float()  # of the tokens alone
    advantage = reward - reward.mean()
    gradients = {"sampled": [], "marginal": []}
    for part in torch.arange(count).split(50):
        rows = rollout.rows(part)
        action = rl.Action(rows.temperatures[rows.mask], rows.changed[rows.mask], rows.z[rows.mask])
        of_token = {
            "sampled": head.log_prob(rows.reads[rows.mask], action),
            "marginal": marginal.log_prob(head, marginal.explain(transformer, head, rows)),
        }
        for name, log_prob in of_token.items():
            loss = (log_prob.view(50, 3) * advantage[part, None]).sum(1).mean()
            gradients[name].append(torch.autograd.grad(loss, head.w2.bias)[0])
    means = {name: torch.stack(parts).mean(0) for name, parts in gradients.items()}
    errors = {name: torch.stack(parts).std(0) / math.sqrt(len(parts)) for name, parts in gradients.items()}
    allowed = 4 * (errors["sampled"] ** 2 + errors["marginal"] ** 2).sqrt()
    assert ((means["sampled"] - means["marginal"]).abs() <= allowed).all(), (means, allowed)
    felt = errors["sampled"] > 0  # without a gate the first output has no gradient
    assert (errors["marginal"] < 0.5 * errors["sampled"])[felt].all() and felt[1:].all(), errors


def test_ratios_begin_at_one_and_micro_batches_change_nothing(transformer):
    torch.manual_seed(4)
    head = TemperatureHead(16)
    rollout = marginal.explain(transformer, head, drawn_by(transformer, head, [[1, 2, 3], [4, 5]], 40, 5, eos=10))
    old = rollout.temperature_log_probs
    torch.testing.assert_close(
        marginal.log_prob(head, rollout).detach(), old[rollout.mask]
    )  # there in parts of 64 rows
    assert (old[~rollout.mask] == 0).all()
    advantage, states = torch.randn(80), []
    for tokens in (10_000, 12):
        other = TemperatureHead(16)
        other.load_state_dict(head.state_dict())
        optimizer = torch.optim.SGD(other.parameters(), lr=1.0)
        settings, how = rl.StepSettings(epochs=2), rl.PlainGradient(tokens)
        told = marginal.temperature_step(other, optimizer, rollout, advantage, settings, how)
        states.append(torch.cat([p.detach().flatten() for p in other.parameters()]))
    assert told["gradient_norm"] > 0 and told["kl"] != 0
    torch.testing.assert_close(*states)
    assert not torch.equal(states[0], torch.cat([p.detach().flatten() for p in head.parameters()]))


def test_a_step_raises_the_chance_of_tokens_with_an_advantage(transformer):
    torch.manual_seed(5)
    head = TemperatureHead(16)
    rollout = marginal.explain(transformer, head, drawn_by(transformer, head, [[1, 2, 3]], 64, 3))
    advantage = torch.where(rollout.tokens[:, 3] == rollout.tokens[0, 3], 1.0, -1.0)
    before = (marginal.log_prob(head, rollout).view(64, 3) * advantage[:, None]).sum()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    marginal.temperature_step(head, optimizer, rollout, advantage, rl.StepSettings())
    assert (marginal.log_prob(head, rollout).view(64, 3) * advantage[:, None]).sum() > before


def test_a_head_on_an_earlier_layer_is_refused(transformer):
    head = TemperatureHead(16, layer=1)
    rollout = drawn_by(transformer, head, [[1, 2]], 2, 2)
    with pytest.raises(ValueError, match="reads h_t, not an earlier layer"):
        marginal.explain(transformer, head, rollout)


def test_joined_rollouts_keep_it(transformer):
    head = TemperatureHead(16)
    parts = [marginal.explain(transformer, head, drawn_by(transformer, head, [p], 2, 3)) for p in ([1, 2], [1, 2, 3])]
    joined = sample.join(parts)
    torch.testing.assert_close(
        marginal.log_prob(head, joined), torch.cat([marginal.log_prob(head, part) for part in parts])
    )


def run(*words: str):
    root = Path(__file__).resolve().parent.parent
    return subprocess.run([sys.executable, "train.py", *words], cwd=root, capture_output=True, text=True)


def test_theta_explains_the_tokens_that_it_drew(tmp_path, monkeypatch):
    """In train.py's loop, where both sides learn: before the token step, and not at all for a rule."""
    order = []
    monkeypatch.setattr(
        marginal, "explain", lambda t, h, r, real=marginal.explain: order.append("explain") or real(t, h, r)
    )
    monkeypatch.setattr(rl, "token_step", lambda *a, real=rl.token_step: order.append("tokens") or real(*a))
    common = [
        "--prompts-per-step",
        "2",
        "--samples-per-prompt",
        "4",
        "--final-problems",
        "2",
        "--steps",
        "2",
        "--print-every",
        "0",
    ]
    for name, words in (("own", ["--temperature-estimator", "marginal"]), ("0.7", ["--policy", "0.7"])):
        c = config.parse([*common, *words, "--out", str(tmp_path / name)])
        c.temperature_estimator = "marginal"  # as a preset may say
        training.train(c, prepare(c))
    assert order == ["explain", "tokens"] * 2 + ["tokens"] * 2


@pytest.mark.parametrize("policy", ["0.7", "tampo"])
def test_a_policy_without_a_head_is_never_asked(tmp_path, policy, capsys):
    """A preset may name the estimator; a dry run stores what the policy read in any case."""
    words = ["--preset", "smollm2-135m-words", "--model", "models/modular", "--task", "modular", "--schedule", "every"]
    run = prepare(
        config.parse([*words, "--policy", policy, "--dry-run", "--final-problems", "2", "--out", str(tmp_path)])
    )
    opening.rehearse(run)
    assert "a step takes about" in capsys.readouterr().out


def test_train_learns_by_it_and_resumes(tmp_path):
    """With 64 completions a step, where the paper's estimator learns nothing: see study/efficiency.py for the curves."""
    common = [
        "--temperature-estimator", "marginal", "--schedule", "temperature", "--temperature-objective", "pass@4", "--seed", "1",
        "--prompts-per-step", "8", "--samples-per-prompt", "8", "--temperature-epochs", "8", "--eval-every", "0",
        "--print-every", "0", "--final-problems", "100", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    ended = run(*common, "--steps", "4")
    assert ended.returncode == 0, ended.stderr
    ended = run("--resume", "--steps", "24", "--out", str(tmp_path / "run"))
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "run" / "after.json").read_text())
    assert found["own"]["Pass@8"] > found["1.0"]["Pass@8"] + 0.03, found


@pytest.mark.parametrize(
    "words, told",
    [
        (["--temperature-estimator", "maginal"], "'maginal' is none of: sampled, marginal"),
        (["--temperature-estimator", "marginal", "--policy", "entropy-only"], "needs --temperature-estimator sampled"),
        (["--temperature-estimator", "marginal", "--policy", "sequence"], "needs --temperature-estimator sampled"),
        (["--temperature-estimator", "marginal", "--concentration", "200"], "too narrow"),
        (["--temperature-estimator", "marginal", "--policy", "0.7"], "does nothing with --policy 0.7"),
        (["--temperature-estimator", "marginal", "--schedule", "tokens"], "does nothing with --schedule tokens"),
        (["--temperature-estimator", "marginal", "--temperature-entropy", "0.1"], "--temperature-entropy does nothing"),
    ],
)
def test_what_it_cannot_do_is_said(tmp_path, words, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        checks.validate(config.parse([*words, "--out", str(tmp_path / "run")]))
