"""The proof by enumeration: the code's gradients are the gradients of the expected reward, on a toy that can be counted.

The toy has three tokens (2 ends a completion), at most three of them are drawn, and a completion is right or wrong.  Small
enough that the expected reward needs no sampling: sum over tokens, sum over the gate, integrate over z,

    J(theta, phi) = sum_y R(y) sum_c int dz  prod_t  P(c_t) p(z_t)^{c_t}  softmax(logits_t / tau_t)[y_t],

which `paths` does, written from the paper's formulas and from nothing in rl.py, sample.py or temperature_head.py but the
weights.  Autograd of that J is the truth.  Against it stand the gradients that `rl.token_step` and `rl.temperature_step`
hand to their optimizers, on completions that `sample.generate` drew: averaged over many rollouts they must be the truth,
within their confidence interval, or be off by what the tests below say and measure.

What a reader should know before reading on:

* The head reads a detached h, so theta's gradient holds pi_phi fixed as a function of the *text so far*: the part of J that
  reaches theta through the head's input is left out (`detach` below), and is measured in the coordinate-step test.
* With group-relative advantages the expected gradient is  mean over prompts of w(p) dp,  p the probability that a
  completion is right and w(p) a weight that only the kind of advantage decides:  w = 1 (rloo),  1 - 1/G (dr_grpo),  about
  1 / sqrt(p (1 - p)) (grpo),  about (1 - k/G) (1 - p)^(k-1) / s (pass@k).  So the baseline biases no prompt's direction; it
  decides how much each prompt counts.  `weight` is the exact finite-G value.
* The loss divides by the number of tokens drawn, N, which is random: the gradients below are multiplied by N again.
"""

import copy
import math
from dataclasses import replace

import pytest
import torch

import baselines
import model
import rl
import sample
import temperature_head
from temperature_head import TemperatureHead

END, HORIZON, GROUP = 2, 3, 6
PROMPTS = [[0], [0, 1]]  # of different lengths; the first is hard and the second easier
RIGHT = {(0, 1, 2), (1, 2), (1, 0, 2), (0, 2)}  # what earns 1; a completion that does not end in time earns 0
KINDS = ["grpo", "dr_grpo", "rloo", "pass@2", "pass@3"]
MIN_P = 0.4
CLIPPED = rl.StepSettings(
    max_grad_norm=1e9
)  # the defaults; where the rollout was drawn every ratio is 1: nothing is clipped
FREE = rl.StepSettings(clip_low=1e9, clip_high=1e9, max_grad_norm=1e9)


@pytest.fixture(scope="module")
def toy():
    """A real model of one layer and a real head, both far from uniform: logits of some units, temperatures that differ."""
    torch.manual_seed(56)
    config = model.Config(vocab_size=3, d_model=8, n_layers=1, n_heads=2, n_kv_heads=1, d_head=4, d_mlp=8, max_length=8)
    transformer, head = model.Transformer(config), TemperatureHead(8, 0.2, 3.0, concentration=6.0)
    with torch.no_grad():
        transformer.unembedding.weight.mul_(8)
        head.w2.weight.mul_(15)
    return transformer, head


# ---- the truth ------------------------------------------------------------------------------------------------------


def gauss_legendre(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights on (0, 1): the eigenvalues of the Jacobi matrix (Golub and Welsch, 1969)."""
    i = torch.arange(1, count, dtype=torch.float64)
    off = i / (4 * i * i - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (nodes + 1) / 2, vectors[0] ** 2


NODES, WEIGHTS = gauss_legendre(48)


def exact_head(head, hidden, detach: bool):
    """P(change), and the Beta's (a, b), from the weights and the paper's formulas; hidden (d,), float64."""
    hidden = hidden.detach() if detach else hidden
    u = head.w2.weight @ torch.relu(head.w1.weight @ hidden + head.w1.bias) + head.w2.bias
    softplus = torch.log1p(u.exp()) + head.eps
    return 1 / (1 + (-u[0]).exp()), softplus[1], softplus[2]


def paths(transformer, head, prompt, detach=True, min_p=0.0) -> dict[tuple, torch.Tensor]:
    """{(tokens, gates): probability} of every completion, differentiable; a gate is True where tau was changed.

    A temperature is tau_0 or one of the quadrature's nodes, and stays what it is until the gate opens: so a vector of
    weights over these 1 + 48 temperatures is all that must be carried along a path.
    """
    span = head.tau_max - head.tau_min
    taus = torch.cat((torch.tensor([head.tau_initial], dtype=torch.float64), head.tau_min + span * NODES))
    start = torch.zeros(len(taus), dtype=torch.float64)
    start[0] = 1.0
    done, open_paths = {}, [((), (), start)]
    for _ in range(HORIZON):
        longer = []
        for tokens, gates, weights in open_paths:
            hidden = transformer(torch.tensor([[*prompt, *tokens]]))[0, -1]  # h_t
            opens, a, b = exact_head(head, hidden, detach)
            density = torch.distributions.Beta(a, b).log_prob(NODES).exp()
            drawn = torch.cat((torch.zeros(1, dtype=torch.float64), density * WEIGHTS))
            logits = transformer.unembed(hidden)
            left = logits.exp() >= min_p * logits.exp().max()  # by the probabilities at temperature 1
            probabilities = torch.softmax((logits / taus[:, None]).masked_fill(~left, -torch.inf), dim=-1)  # (49, 3)
            for gate, of_tau in ((False, (1 - opens) * weights), (True, opens * weights.sum() * drawn)):
                for token in range(3):
                    entry = ((*tokens, token), (*gates, gate), of_tau * probabilities[:, token])
                    if token == END or len(entry[0]) == HORIZON:
                        done[entry[:2]] = entry[2].sum()
                    else:
                        longer.append(entry)
        open_paths = longer
    return done


def double(module):
    return copy.deepcopy(module).double()


def exact_p(transformer, head, detach=True, min_p=0.0) -> list[torch.Tensor]:
    """The probability that a completion is right, for each prompt; J is their mean."""
    counted = [paths(transformer, head, prompt, detach, min_p) for prompt in PROMPTS]
    return [sum(p for (tokens, _), p in of_prompt.items() if tokens in RIGHT) for of_prompt in counted]


def gradient(value, module) -> torch.Tensor:
    grads = torch.autograd.grad(value, list(module.parameters()), retain_graph=True)
    return torch.cat([grad.flatten() for grad in grads])


def weight(kind: str, p: float, size: int = GROUP) -> float:
    """w(p): how a group's expected gradient scales that prompt's dp.

    A sample's advantage depends on its own reward and on how many of the other G - 1 are right, c ~ Binomial(G - 1, p), so
    E[A dlog pi] = dp * E_c[A(right | c) - A(wrong | c)].
    """
    total = 0.0
    for c in range(size):
        others = [1.0] * c + [0.0] * (size - 1 - c)
        right, wrong = (float(rl.advantages(torch.tensor([[own, *others]]), kind)[0, 0]) for own in (1.0, 0.0))
        total += math.comb(size - 1, c) * p**c * (1 - p) ** (size - 1 - c) * (right - wrong)
    return total


def exact_gradient(toy, side: int, kind: str, min_p=0.0) -> torch.Tensor:
    """mean_x w(p_x) dp_x with respect to theta (side 0) or phi (side 1)."""
    pair = [double(module) for module in toy]
    p = exact_p(*pair, min_p=min_p)
    return sum(weight(kind, of_prompt.item()) * gradient(of_prompt, pair[side]) for of_prompt in p) / len(p)


# ---- the code -------------------------------------------------------------------------------------------------------


class Notes:
    """An optimizer that moves nothing and notes the gradient it was handed."""

    def __init__(self, module):
        self.module, self.gradients = module, []

    def zero_grad(self, set_to_none=True):
        self.module.zero_grad(set_to_none)

    def step(self):
        self.gradients.append(torch.cat([parameter.grad.flatten() for parameter in self.module.parameters()]))


def roll_out(toy, seed: int, groups: int = 256):
    """A rollout of `groups` groups a prompt, and its rewards (P, G)."""
    generator = torch.Generator().manual_seed(seed)
    rollout = sample.generate(*toy, PROMPTS * groups, GROUP, HORIZON, {END}, generator, keep_reads=True)
    drawn = [tuple(row[keep].tolist()) for row, keep in zip(rollout.tokens, rollout.mask)]
    return rollout, torch.tensor([float(tokens in RIGHT) for tokens in drawn]).view(-1, GROUP)


@pytest.fixture(scope="module")
def rollouts(toy):
    return [roll_out(toy, seed) for seed in range(30)]


def take_step(toy, side: int, rollout, advantage, settings=CLIPPED, optimizer=None):
    step = (rl.token_step, rl.temperature_step)[side]
    return step(toy[side], optimizer, rollout, advantage, settings)


def code_gradients(toy, side: int, kind: str, rollouts, settings=CLIPPED) -> torch.Tensor:
    """(rollouts, parameters): what the step hands to its optimizer, as a gradient to ascend, a completion."""
    rows = []
    for rollout, rewards in rollouts:
        notes = Notes(toy[side])
        take_step(toy, side, rollout, rl.advantages(rewards, kind).flatten(), settings, notes)
        rows.append(-notes.gradients[-1].double() * rollout.mask.sum() / len(rollout.mask))
    return torch.stack(rows)


def slope(gradients: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """The part of the estimate along the truth, 1 where they agree, with the half-width of its 99.9% interval."""
    along = gradients @ truth / (truth @ truth)
    return float(along.mean()), 3.66 * float(along.std()) / len(along) ** 0.5  # t of 29 degrees of freedom


def assert_agrees(gradients: torch.Tensor, truth: torch.Tensor) -> None:
    """The mean of the estimates is the truth: along it, and in every single parameter."""
    middle, half = slope(gradients, truth)
    assert abs(middle - 1) < half, f"along the exact gradient: {middle:.3f} +- {half:.3f}, not 1"
    error = gradients.std(0) / len(gradients) ** 0.5
    off = (gradients.mean(0) - truth).abs() / (error + 1e-5 * truth.abs().max())
    assert off.max() < 6, f"parameter {int(off.argmax())} is {float(off.max()):.1f} standard errors off"
    assert half < 0.15, "too few samples to say that they agree"


# ---- the claims -----------------------------------------------------------------------------------------------------


def test_the_truth_is_a_distribution(toy):
    """The quadrature is exact enough: probabilities add up to one, and p is away from 0 and 1."""
    pair = [double(module) for module in toy]
    for prompt in PROMPTS:
        assert abs(sum(paths(*pair, prompt).values()).item() - 1) < 1e-4
    easy, hard = (p.item() for p in exact_p(*pair))
    assert 0.15 < hard < easy - 0.05 < 0.8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [0, 1], ids=["theta", "phi"])
def test_the_codes_gradient_is_the_gradient_of_the_expected_reward(toy, rollouts, side, kind):
    assert_agrees(code_gradients(toy, side, kind, rollouts), exact_gradient(toy, side, kind))


@pytest.fixture(scope="module")
def cut_toy(toy):
    """A model less sure of itself, and the same head with a cut."""
    transformer, head = copy.deepcopy(toy)
    with torch.no_grad():
        transformer.unembedding.weight.mul_(0.35)
    return transformer, baselines.with_cut(head, min_p=MIN_P)


@pytest.fixture(scope="module")
def cut_rollouts(cut_toy):
    return [roll_out(cut_toy, seed, groups=700) for seed in range(30)]


@pytest.mark.parametrize("side", [0, 1], ids=["theta", "phi"])
def test_so_it_is_where_unlikely_tokens_are_cut_away(cut_toy, cut_rollouts, side):
    """The expected reward of what is drawn then; where a token is about to leave it has a step, which no gradient sees."""
    truth, uncut = exact_gradient(cut_toy, side, "rloo", MIN_P), exact_gradient(cut_toy, side, "rloo")
    assert truth.norm() > 1.15 * uncut.norm(), "the cut makes a difference here"
    assert_agrees(code_gradients(cut_toy, side, "rloo", cut_rollouts), truth)


def test_the_bias_of_the_group_baseline():
    """What each kind of advantage does to a prompt's weight, exactly, at this G and in the limit of a large one."""
    for p in (0.05, 0.3, 0.7):
        assert weight("rloo", p) == pytest.approx(1, abs=1e-6)  # unbiased
        assert weight("dr_grpo", p) == pytest.approx(1 - 1 / GROUP, abs=1e-6)  # its own reward is in its baseline
        assert weight("grpo", p, 64) == pytest.approx(1 / math.sqrt(p * (1 - p)), rel=0.06)  # hard and easy count more
        for k in (2, 3):  # proportional to the derivative k (1 - p)^(k-1) of pass@k, by its standard deviation
            fails = (1 - p) ** k
            expected = (1 - k / 64) * (1 - p) ** (k - 1) / math.sqrt(fails * (1 - fails))
            assert weight(f"pass@{k}", p, 64) == pytest.approx(expected, rel=0.06)
        assert weight(f"pass@{GROUP}", p) == 0  # one subset only, and it is its own baseline: nothing to learn
    # The price of dividing by the std at G = 6: a hard prompt counts less than in the limit, as its groups often say nothing.
    assert weight("grpo", 0.05) == pytest.approx(2.15, abs=0.01) and 1 / math.sqrt(0.05 * 0.95) > 4.58


@pytest.mark.parametrize("side, near, far", [(0, 0.005, 0.04), (1, 0.05, 0.2)], ids=["theta", "phi"])
def test_the_bias_of_clipping(toy, rollouts, side, near, far):
    """Where the policy has moved since the rollout, what is clipped is the part of the gradient that goes on with the move.

    Near, hardly anything is outside [0.8, 1.2] and the clipped gradient is the exact one (0.96 +- 0.05 for theta, 0.91 +-
    0.23 for phi, with no clipping 1.03 and 0.93).  Far (58% and 15% of the ratios outside), what is left points *down*:
    -0.4 and -1.1 times the exact gradient, against 1.3 and 0.9 with no clipping.  It is a wall, not a shorter step.
    (Without clipping it is not exact either: a ratio per token weighs y_t, but not the states that led there.)
    """
    moved, uphill = copy.deepcopy(toy), exact_gradient(toy, side, "rloo").float()
    start = torch.nn.utils.parameters_to_vector(toy[side].parameters()).detach()
    for distance in (near, far):
        torch.nn.utils.vector_to_parameters(start + distance * uphill / uphill.norm(), moved[side].parameters())
        truth = exact_gradient(moved, side, "rloo")
        (free, margin), (clipped, _) = (
            slope(code_gradients(moved, side, "rloo", rollouts[:10], settings), truth) for settings in (FREE, CLIPPED)
        )
        assert abs(free - 1) < 0.15 + margin + (0.3 if distance == far else 0)
        assert abs(clipped - 1) < 0.15 + margin if distance == near else clipped < -0.2


@pytest.mark.parametrize("kind", KINDS)
def test_each_coordinate_step_raises_the_exact_objective(toy, kind):
    """Rounds of small steps, tokens and temperature in turn, on fresh rollouts: every one raises what its kind climbs.

    That is mean_x W(p_x) with W' = w: J itself for rloo and dr_grpo.
    """
    toy = copy.deepcopy(toy)
    optimizers = [torch.optim.SGD(module.parameters(), lr) for module, lr in zip(toy, (0.002, 0.3))]
    nodes, weights = gauss_legendre(GROUP // 2)  # exact: w is a polynomial in p of degree G - 1

    def objective() -> float:
        of_prompts = [p.item() for p in exact_p(*[double(module) for module in toy])]
        return sum(p * w * weight(kind, p * x) for p in of_prompts for x, w in zip(nodes.tolist(), weights.tolist()))

    values = [objective()]
    for seed in range(3):
        rollout, rewards = roll_out(toy, 100 + seed)
        for side in (0, 1):
            take_step(toy, side, rollout, rl.advantages(rewards, kind).flatten(), CLIPPED, optimizers[side])
            values.append(objective())
    assert all(after > before for before, after in zip(values, values[1:])), values


def test_what_detaching_leaves_out(toy):
    """theta also moves what the head reads.  The method leaves that out; here it is 0.7% of the whole gradient."""
    pair = [double(module) for module in toy]
    ours, whole = (gradient(sum(exact_p(*pair, detach=detach)), pair[0]) for detach in (True, False))
    assert 0.005 < (ours - whole).norm() / whole.norm() < 0.01


def chi_square(observed: torch.Tensor, expected: torch.Tensor) -> float:
    """In standard deviations above its mean; cells that expect fewer than five are one cell."""
    small = expected < 5
    observed = torch.cat((observed[~small], observed[small].sum()[None]))
    expected = torch.cat((expected[~small], expected[small].sum()[None]))
    freedom = len(expected) - 1
    return float((((observed - expected) ** 2 / expected.clamp_min(1e-9)).sum() - freedom) / (2 * freedom) ** 0.5)


def test_completions_and_gates_are_drawn_with_their_exact_probabilities(toy, rollouts):
    """Every path of tokens and gates, with z integrated out: a chi-square over all of them."""
    for index, prompt in enumerate(PROMPTS):
        exact, counts = paths(*[double(module) for module in toy], prompt), {}
        for rollout, _ in rollouts:
            for row in range(len(rollout.mask)):
                if row // GROUP % len(PROMPTS) == index:
                    keep = rollout.mask[row]
                    path = (tuple(rollout.tokens[row][keep].tolist()), tuple(rollout.changed[row][keep].tolist()))
                    counts[path] = counts.get(path, 0) + 1
        assert counts.keys() <= exact.keys()
        observed = torch.tensor([counts.get(path, 0) for path in exact], dtype=torch.float64)
        expected = torch.stack(list(exact.values())).detach() * observed.sum()
        assert abs(chi_square(observed, expected)) < 3.3


def test_the_first_temperature_and_token_have_their_exact_joint_density(toy, rollouts):
    """Kolmogorov-Smirnov on z where the gate opened, chi-square on (bin of z, token), and the share of opened gates."""
    pair, prompt = [double(module) for module in toy], PROMPTS[0]
    hidden = pair[0](torch.tensor([prompt]))[0, -1].detach()
    opens, a, b = (value.item() for value in exact_head(pair[1], hidden, True))
    rows = torch.arange(len(rollouts[0][0].mask)) // GROUP % len(PROMPTS) == 0
    first = len(prompt)
    changed, z, token = (
        torch.cat([getattr(rollout, name)[rows, first] for rollout, _ in rollouts])
        for name in ("changed", "z", "tokens")
    )
    share = float(changed.double().mean())
    assert abs(share - opens) < 3.3 * (opens * (1 - opens) / len(changed)) ** 0.5
    # the density on a fine grid of midpoints, its distribution function, and the tokens' probabilities there
    grid = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    mass = torch.distributions.Beta(a, b).log_prob(grid).exp() / len(grid)
    drawn, token = z[changed].double().sort().values, token[changed][z[changed].argsort()]
    cdf = mass.cumsum(0)[(drawn * len(grid)).long().clamp_max(len(grid) - 1)]
    ranks = torch.arange(1, len(drawn) + 1, dtype=torch.float64) / len(drawn)
    assert float((cdf - ranks).abs().max()) * len(drawn) ** 0.5 < 1.95  # the 0.1% point of Kolmogorov's distribution
    taus = pair[1].tau_min + grid * (pair[1].tau_max - pair[1].tau_min)
    of_token = torch.softmax(pair[0].unembed(hidden).detach() / taus[:, None], dim=-1) * mass[:, None]
    expected = of_token.view(20, -1, 3).sum(1).flatten() * len(drawn)
    observed = torch.bincount((drawn * 20).long() * 3 + token, minlength=60).double()
    assert abs(chi_square(observed, expected)) < 3.3


# ---- and they can fail ----------------------------------------------------------------------------------------------


def without_temperature(rollout):
    return replace(rollout, temperatures=torch.ones_like(rollout.temperatures))


def without_margins(rollout):
    return replace(rollout, margins=None)


def shifted_mask(rollout):
    return replace(rollout, mask=torch.cat((torch.zeros_like(rollout.mask[:, :1]), rollout.mask[:, :-1]), dim=1))


@pytest.mark.parametrize("mistake", [without_temperature, shifted_mask])
def test_mistakes_in_the_tokens_log_prob_show(toy, rollouts, mistake):
    wrong = [(mistake(rollout), rewards) for rollout, rewards in rollouts]
    with pytest.raises(AssertionError, match="exact gradient|standard errors"):
        assert_agrees(code_gradients(toy, 0, "rloo", wrong), exact_gradient(toy, 0, "rloo"))


def test_a_cut_that_training_does_not_know_shows(cut_toy, cut_rollouts):
    wrong = [(without_margins(rollout), rewards) for rollout, rewards in cut_rollouts]
    with pytest.raises(AssertionError, match="exact gradient|standard errors"):
        assert_agrees(code_gradients(cut_toy, 0, "rloo", wrong), exact_gradient(cut_toy, 0, "rloo", MIN_P))


def without_gate(log_prob, gate, a, b, changed, z, rest=None):
    return log_prob(gate, a, b, changed, z) - torch.nn.functional.logsigmoid(torch.where(changed, gate, -gate))


def swapped(log_prob, gate, a, b, changed, z, rest=None):
    return log_prob(gate, b, a, changed, z)


@pytest.mark.parametrize("mistake", [without_gate, swapped])
def test_mistakes_in_the_temperatures_log_prob_show(toy, monkeypatch, mistake):
    log_prob = temperature_head.mixed_log_prob
    monkeypatch.setattr(temperature_head, "mixed_log_prob", lambda *given: mistake(log_prob, *given))
    wrong = [roll_out(toy, seed, groups=200) for seed in range(30)]
    with pytest.raises(AssertionError, match="exact gradient|standard errors"):
        assert_agrees(code_gradients(toy, 1, "rloo", wrong), exact_gradient(toy, 1, "rloo"))
