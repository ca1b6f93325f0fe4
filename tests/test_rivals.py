"""study/rivals.py: the controls have the head's temperatures elsewhere; the two-piece map is what it says, and learns."""

from pathlib import Path

import pytest
import torch

import baselines
import model
import rl
import sample
import tasks
import tokenizer
from study import experiment, rivals, settings, trials
from study.results import Asked
from temperature_head import TemperatureHead

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def base():
    folder = ROOT / "models/modular"
    return model.load(folder), tokenizer.load(folder), tasks.load("modular", "tuning", 6)


def rollout(base, policy, seed: int = 0, keep_reads: bool = False) -> sample.Rollout:
    transformer, vocabulary, problems = base
    prompts = [tasks.render(problem.problem, vocabulary) for problem in problems]
    generator = torch.Generator().manual_seed(seed)
    stop = tasks.stop_ids(vocabulary)
    return sample.generate(transformer, policy, prompts, 8, 28, stop, generator, keep_reads=keep_reads)


def temperatures(of: sample.Rollout) -> list[list[float]]:
    return [row[mask].tolist() for row, mask in zip(of.temperatures, of.mask)]


def head_of(base) -> TemperatureHead:
    torch.manual_seed(0)
    return TemperatureHead(base[0].config.d_model, 0.3, 1.5)


def test_recording_changes_nothing_and_notes_every_temperature(base):
    head = head_of(base)
    recorded = rivals.Recorded(head, tasks.stop_ids(base[1]))
    seen, plain = rollout(base, recorded), rollout(base, head)
    assert torch.equal(seen.tokens, plain.tokens) and len(set(seen.mask.sum(1).tolist())) > 2, "rows of several lengths"
    assert [recorded.taus[0][row] for row in range(48)] == temperatures(plain)


def test_a_shuffled_completion_has_the_same_temperatures_in_another_order(base):
    stop = tasks.stop_ids(base[1])
    recorded = []
    control = rivals.control("shuffled", head_of(base), stop, lambda policy: recorded.append(rollout(base, policy)), 1)
    drawn, before = temperatures(rollout(base, control, seed=5)), temperatures(recorded[0])
    moved = 0
    for now, was in zip(drawn, before):
        whole = now[: len(was)]
        assert set(whole) <= set(was), "each is one of its own completion's"
        if len(now) >= len(was):
            assert sorted(whole) == sorted(was)
            moved += whole != was
    assert moved > 20


def test_the_mean_of_own_is_one_temperature_the_mean_over_all_tokens(base):
    recorded = []
    stop = tasks.stop_ids(base[1])
    fixed = rivals.control("mean of own", head_of(base), stop, lambda policy: recorded.append(rollout(base, policy)), 0)
    of = recorded[0]
    assert fixed.temperature == pytest.approx(float(of.temperatures[of.mask].mean()), rel=1e-5)


def test_the_two_piece_map_is_monotone_and_its_softmax_is_the_one_that_is_drawn_from():
    head = rivals.TwoPieceHead(8)
    logits = torch.randn(5, 40) * 3
    tau, rest = torch.tensor([0.3, 0.5, 1.0, 1.4, 0.7]), torch.tensor([1.5, 0.2, 1.0, 0.1, 0.7])
    bent = head.bent(logits, tau, rest) / tau[:, None]
    x = logits - logits.amax(1, keepdim=True)
    wanted = torch.where(x >= -2, x / tau[:, None], -2 / tau[:, None] + (x + 2) / rest[:, None])
    assert torch.allclose(bent, wanted, atol=1e-5)
    order = logits.argsort(1)
    assert (bent.gather(1, order).diff(dim=1) >= 0).all()
    same = tau == rest
    assert torch.allclose(bent[same].log_softmax(1), (logits / tau[:, None])[same].log_softmax(1), atol=1e-5)


def test_the_two_piece_head_begins_at_ratio_1_and_learns_from_rewards(base, tmp_path):
    """It is rewarded for a cold lower piece: its Beta moves there."""
    torch.manual_seed(0)
    head = baselines.begin("two-piece", base[0].config.d_model, 0.05, 1.5)
    drawn = rollout(base, head, keep_reads=True)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    mask = drawn.mask

    def lower() -> float:
        a, b = head.betas(drawn.reads[mask])[2:]
        return float((a / (a + b)).mean())

    wanted, before = (drawn.z * mask).sum(1) / mask.sum(1), lower()
    advantage = -(wanted - wanted.mean()) / wanted.std()
    told = rl.temperature_step(head, optimizer, drawn, advantage, rl.StepSettings(epochs=1))
    assert abs(told["kl"]) < 1e-6 and told["clipped"] == 0, "before the first step every ratio is 1"
    rl.temperature_step(head, optimizer, drawn, advantage, rl.StepSettings(epochs=20))
    assert lower() < before - 0.01
    head.save(tmp_path)
    again = baselines.make("two-piece", tmp_path)
    assert torch.equal(rollout(base, again).tokens, rollout(base, head).tokens)


def test_e3_steers_its_temperature_to_the_entropy_that_is_asked_for(base):
    """Frozen tokens: the entropy of what it samples from ends at the target, from either side."""
    for start in (0.3, 1.5):
        policy = baselines.make("e3:start=0.2,end=0.2")
        policy.temperature = start
        for step in range(60):
            policy.begin_step(step)
            rollout(base, policy, seed=step)
            reached = policy.entropy / policy.tokens
            policy.end_step()
        assert reached == pytest.approx(0.2, abs=0.03), start
        drawn = rollout(base, policy)
        assert drawn.temperatures[drawn.mask].unique().tolist() == [pytest.approx(policy.temperature)]


def test_every_rival_runs_as_a_trial(tmp_path):
    size = trials.Size(2, 2, 2, 4, 1, base=str(ROOT / "models/modular"), task="modular")
    of = {trial[:2]: trial for trial in trials.planned(size, ["frozen", "3e-6-long"])}
    flags = of["frozen", "head, mean"].flags | settings.LEARNING[0]
    of["frozen", "two-piece"] = of["frozen", "head, mean"]._replace(method="two-piece", policy="two-piece", flags=flags)
    found = {}
    for regime, name in [("frozen", n) for n in ("head, mean", "shuffled head", "mean of the head", "two-piece")] + [
        ("3e-6-long", name) for name in ("head, mean, every step", *trials.CONTROLS, *trials.JOINT)
    ]:
        result = experiment.run_trial(of[regime, name], tmp_path, Asked("test", 4))
        assert len(result["evaluations"]["own"]["successes"]) == 4, name
        found[regime, name] = result["evaluations"]["own"]["temperature"], result["metrics"]
    for regime, head in (("frozen", "head, mean"), ("3e-6-long", "head, mean, every step")):
        of_mean, of_head = found[regime, "mean of the head"][0], found[regime, head][0]
        assert of_mean == pytest.approx(of_head, rel=1e-3), "recorded with the head's own seed"
    temperature, metrics = found["3e-6-long", "E3"]
    assert temperature == pytest.approx(metrics[-1]["tau/mean"], rel=1e-4)
