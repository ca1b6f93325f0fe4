"""IntroLLM on one page: a language model that chooses its own temperature at every token, and learns it from rewards.

    pi(y, tau | x) = prod_t  pi_phi(tau_t | h_t, tau_{t-1}) * pi_theta(y_t | h_t, tau_t)

This is the whole method in its plainest form.  Only the decoder, the tokenizer and the task come from other files.
train.py learns the same faster.  tests/test_minimal.py holds the two together.

    python minimal.py [STEPS]        the default run of train.py, without its evaluations
"""

import itertools
import sys
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Beta

import model
import tasks
import tokenizer

P, G, STEPS, LENGTH = 32, 16, 300, 28  # problems a step, samples a problem, steps, longest completion
TAU_MIN, TAU_MAX, TAU_0, EPS, CONCENTRATION = 0.05, 1.5, 1.0, 0.1, 4.0
TOKEN_LR, HEAD_LR, HEAD_EPOCHS, CLIP = 2e-4, 3e-3, 2, 0.2


class Head(nn.Module):
    """pi_phi.  Change or keep: c ~ Bernoulli(sigmoid(u_c)).  If c = 1: z ~ Beta(a, b), tau = tau_min + z (tau_max - tau_min)."""

    def __init__(self, d: int):
        super().__init__()
        self.w1, self.w2 = nn.Linear(d, d // 2), nn.Linear(d // 2, 3)
        mean = (TAU_0 - TAU_MIN) / (TAU_MAX - TAU_MIN)  # at the start tau is TAU_0 on average, whatever h is
        a_and_b = CONCENTRATION * torch.tensor([mean, 1 - mean])  # softplus(x) + EPS = a: x = log(exp(a - EPS) - 1)
        with torch.no_grad():
            self.w2.weight.mul_(0.1)
            self.w2.bias.copy_(torch.cat((torch.zeros(1), (a_and_b - EPS).expm1().log())))

    def forward(self, h):
        """h (..., d) -> u_c, a, b, (...) each.  h is detached: no gradient of the head's loss reaches theta."""
        u_c, u_a, u_b = self.w2(F.relu(self.w1(h.detach()))).unbind(-1)
        return u_c, F.softplus(u_a) + EPS, F.softplus(u_b) + EPS

    def act(self, h, tau):
        u_c, a, b = self(h)
        c = torch.rand_like(u_c) < u_c.sigmoid()
        z = Beta(a, b).sample().clamp(1e-30, 1 - 6e-8)
        return torch.where(c, TAU_MIN + z * (TAU_MAX - TAU_MIN), tau), c, z

    def log_prob(self, h, c, z):
        """log P(c) + c log p(z)."""
        u_c, a, b = self(h)
        return F.logsigmoid(torch.where(c, u_c, -u_c)) + torch.where(c, Beta(a, b).log_prob(z), 0.0)


class Cache:
    """Keys and values of each row: its prompt, padded on the right to L, then one column a step."""

    def __init__(self, lengths, longest):
        self.lengths, self.layers, self.steps = lengths, {}, 0
        self.there = torch.arange(longest) < lengths[:, None]  # (B, S) False: padding

    def reader(self, tokens):
        """What model.Transformer asks of a cache: the positions of `tokens`, and the attention over all that is held."""
        layers, is_prompt, positions = itertools.count(), not self.layers, torch.arange(tokens.shape[1])[None]
        if not is_prompt:
            positions = (self.lengths + self.steps)[:, None]  # (B, 1)
            self.steps, self.there = self.steps + 1, F.pad(self.there, (0, 1), value=True)

        def read(q, k, v):  # (B, T, head, d_head)
            layer = next(layers)
            held = self.layers.get(layer, (k[:, :0], v[:, :0]))
            k, v = self.layers[layer] = [torch.cat((old, new), dim=1) for old, new in zip(held, (k, v))]
            return model.causal(q, k, v, None if is_prompt else self.there[:, None, None])

        return positions, read


@torch.no_grad()
def sample(transformer, head, prompts, eos):
    """A completion of each prompt: everything that was drawn, one (B, T) tensor a name, h (B, T, d)."""
    lengths = torch.tensor([len(ids) for ids in prompts])
    longest = int(lengths.max())
    tokens = torch.tensor([ids + [0] * (longest - len(ids)) for ids in prompts])
    cache, tau = Cache(lengths, longest), torch.full((len(prompts),), TAU_0)
    h = transformer(tokens, cache)[torch.arange(len(prompts)), lengths - 1]  # (B, d) draws the first token
    going, drawn = torch.ones(len(prompts), dtype=torch.bool), []
    for _ in range(LENGTH):
        tau, c, z = head.act(h, tau)  # tau_t ~ pi_phi
        pi_theta = F.log_softmax(transformer.unembed(h) / tau[:, None], dim=-1)  # (B, V)
        y = torch.multinomial(pi_theta.exp(), 1)  # y_t ~ pi_theta
        drawn.append((y[:, 0], tau, c, z, pi_theta.gather(1, y)[:, 0], head.log_prob(h, c, z), h, going))
        going = going & ~torch.isin(y[:, 0], eos)
        if not going.any():
            break
        h = transformer(y, cache)[:, 0]
    names = ("y", "tau", "c", "z", "log_p_token", "log_p_tau", "h", "mask")
    return {name: torch.stack(steps, dim=1) for name, steps in zip(names, zip(*drawn))} | {"finished": ~going}


def token_log_prob(transformer, prompts, r, rows):
    """log pi_theta(y_t | h_t, tau_t) of these rows, computed anew at the stored temperatures (n, T)."""
    starts, y = torch.tensor([len(prompts[row]) - 1 for row in rows]), r["y"][rows]
    whole = [prompts[row] + ids for row, ids in zip(rows, y.tolist())]
    hidden = transformer(torch.tensor([ids + [0] * (max(map(len, whole)) - len(ids)) for ids in whole]))
    # The model's output at t - 1 draws token t.
    h = hidden[torch.arange(len(whole))[:, None], starts[:, None] + torch.arange(y.shape[1])]
    pi_theta = F.log_softmax(transformer.unembed(h) / r["tau"][rows, :, None], dim=-1)
    return pi_theta.gather(-1, y[..., None])[..., 0]


def step(optimizer, log_prob_of, old, advantage, mask):
    """One PPO-clipped policy gradient step, -1/N sum_t min(r A, clip(r) A), 64 rows at a time."""
    optimizer.zero_grad()
    for rows in advantage.any(1).nonzero()[:, 0].split(64):  # no advantage, no gradient
        ratio, a = (log_prob_of(rows) - old[rows]).exp(), advantage[rows]
        gain = torch.minimum(ratio * a, ratio.clamp(1 - CLIP, 1 + CLIP) * a)
        (-gain[mask[rows]].sum() / mask.sum()).backward()
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()


def main(steps: int = STEPS):
    torch.manual_seed(0)
    transformer, vocabulary = model.load("models/modular"), tokenizer.load("models/modular")
    head, problems = Head(transformer.config.d_model), tasks.load("modular", "train")
    of_theta = torch.optim.Adam(transformer.parameters(), TOKEN_LR)
    of_phi = torch.optim.Adam(head.parameters(), HEAD_LR)
    eos = torch.tensor(sorted(tasks.stop_ids(vocabulary)))
    for number in range(steps):
        asked = [problems[i] for i in torch.randint(len(problems), (P,)) for _ in range(G)]
        prompts = [tasks.render(problem, vocabulary) for problem in asked]
        r = sample(transformer, head, prompts, eos)
        texts = [vocabulary.decode([t for t in y[m].tolist() if t not in eos]) for y, m in zip(r["y"], r["mask"])]
        rewards = torch.tensor(tasks.rewards(asked, texts, r["finished"].tolist())).view(P, G)
        advantage = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True, correction=0) + 1e-6)
        if advantage.any():  # the coordinate ascent: theta with phi fixed, then phi with theta fixed
            advantage = advantage.view(-1, 1)  # (B, 1)
            step(of_theta, partial(token_log_prob, transformer, prompts, r), r["log_p_token"], advantage, r["mask"])
            of_taus = lambda rows: head.log_prob(r["h"][rows], r["c"][rows], r["z"][rows])  # noqa: B023, E731
            for _ in range(HEAD_EPOCHS):
                step(of_phi, of_taus, r["log_p_tau"], advantage, r["mask"])
        print(f"step {number}  reward {rewards.mean():.3f}  tau {r['tau'][r['mask']].mean():.2f}", flush=True)
    return transformer, head


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
