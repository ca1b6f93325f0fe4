"""Sampling a frozen model under many temperature policies at once: each distinct prefix is computed once.

At low temperatures most samples of a problem begin alike, under one policy as under the next.  `generate` gives what
sample.generate gives for each policy in turn; it keeps one node a distinct prefix, with its keys, values and h_t, and reads
what all prompts begin with (the worked examples) once.  For tests of a few thousand completions this saves most of the work.
"""

import itertools

import torch
from torch import Tensor

import sample
from token_policy import sample_token


class Tree:
    """Nodes: one token each, after a common beginning.  `path[i]` are the nodes that node i reads, itself last."""

    def __init__(self, transformer, prompts: list[list[int]], depth: int, capacity: int):
        """`depth`: nodes of the longest path, `capacity`: nodes in all."""
        c = self.config = transformer.config
        self.transformer, self.count = transformer, 0
        columns = zip(*prompts)
        same = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))
        self.begun = min(same, min(map(len, prompts)) - 1)  # tokens that all prompts share; each has one of its own
        shape = (c.n_layers, capacity, c.n_kv_heads, c.d_head)
        self.keys, self.values = torch.empty(shape), torch.empty(shape)
        self.path = torch.full((capacity, depth), -1)
        self.length = torch.zeros(capacity, dtype=torch.long)
        self.common: list[tuple[Tensor, Tensor]] = []  # a layer: (kv head, tokens, d_head) each
        if self.begun:
            self.layers, self.positions = iter(range(c.n_layers)), torch.arange(self.begun)[None]
            self.attend = self.read_common
            transformer(torch.tensor([prompts[0][: self.begun]]), packed=self)
        self.attend = self.read_paths
        owners = [(row, place) for row, ids in enumerate(prompts) for place in range(len(ids) - self.begun)]
        first = {row: number for number, (row, place) in reversed(list(enumerate(owners))) if place == 0}
        parents = torch.tensor([-1 if place == 0 else number - 1 for number, (_, place) in enumerate(owners)])
        tokens = torch.tensor([prompts[row][self.begun + place] for row, place in owners])
        hidden = self.extend(tokens, parents)
        last = torch.tensor([first[row] + len(ids) - self.begun - 1 for row, ids in enumerate(prompts)])
        self.roots, self.root_hidden = last, hidden[last]  # (P,), (P, d)

    def extend(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """New nodes `tokens` (n,) behind `parents` (n,), which are older or earlier in `tokens`: their hidden states (n, d)."""
        self.nodes = self.count + torch.arange(len(tokens))
        for node, parent in zip(self.nodes.tolist(), parents.tolist()):
            before = 0 if parent < 0 else int(self.length[parent])
            if before:
                self.path[node, :before] = self.path[parent, :before]
            self.path[node, before] = node
            self.length[node] = before + 1
        self.count += len(tokens)
        self.positions = (self.begun + self.length[self.nodes] - 1)[None]
        self.reads = self.path[self.nodes, : int(self.length[self.nodes].max())]  # (n, D)
        self.layers = iter(range(self.config.n_layers))
        return self.transformer(tokens[None], packed=self)[0]

    def read_common(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.common.append((key[0].transpose(0, 1).contiguous(), value[0].transpose(0, 1).contiguous()))
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return mixed.transpose(1, 2)

    def read_paths(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query (1, n, head, d_head), key and value (1, n, kv head, d_head): each reads the common tokens and its path."""
        layer, n, kv, d = next(self.layers), key.shape[1], key.shape[2], key.shape[3]
        self.keys[layer, self.nodes], self.values[layer, self.nodes] = key[0], value[0]
        query = query[0].reshape(n, kv, -1, d) * d**-0.5  # (n, kv, g, d)
        own_keys = self.keys[layer][self.reads.clamp_min(0)].transpose(1, 2)  # (n, kv, D, d)
        own_values = self.values[layer][self.reads.clamp_min(0)].transpose(1, 2)
        scores = query @ own_keys.transpose(2, 3)  # (n, kv, g, D)
        scores.masked_fill_((self.reads < 0)[:, None, None], float("-inf"))
        by_head = query.transpose(0, 1).reshape(kv, -1, d)  # (kv, n g, d)
        if self.begun:
            of_common = (by_head @ self.common[layer][0].transpose(1, 2)).view(kv, n, -1, self.begun).transpose(0, 1)
            scores = torch.cat((of_common, scores), dim=-1)
        weights = scores.softmax(-1)
        mixed = weights[..., self.begun :] @ own_values  # (n, kv, g, d)
        if self.begun:
            shares = weights[..., : self.begun].transpose(0, 1).reshape(kv, -1, self.begun)
            mixed = mixed + (shares @ self.common[layer][1]).view(kv, n, -1, d).transpose(0, 1)
        return mixed.reshape(1, n, -1, d)


@torch.inference_mode()
def generate(
    transformer, policies: list, prompts: list[list[int]], samples: int, max_new_tokens: int, eos_ids: set[int],
    generators: list[torch.Generator], keep_hidden: bool = False,
) -> list[sample.Rollout]:  # fmt: skip
    """A Rollout of each policy, as sample.generate draws it; each policy has a generator of its own."""
    longest, eos = sample.check_lengths(transformer, prompts, max_new_tokens), torch.tensor(sorted(eos_ids))
    suffix = sum(map(len, prompts)) + len(prompts) * samples * max_new_tokens * len(policies)
    tree = Tree(transformer, prompts, longest + max_new_tokens, suffix)
    hidden, nodes = tree.root_hidden, tree.roots
    count = len(prompts) * samples
    place = [torch.arange(len(prompts)).repeat_interleave(samples) for _ in policies]  # of each row in `hidden`
    rows = [torch.arange(count) for _ in policies]
    taus = [torch.full((count,), float(policy.tau_initial)) for policy in policies]
    finished = [torch.zeros(count, dtype=torch.bool) for _ in policies]
    steps: list[list] = [[] for _ in policies]
    for step in range(max_new_tokens):
        logits, drawn = transformer.unembed(hidden), []
        for i, (policy, generator) in enumerate(zip(policies, generators)):
            if not len(rows[i]):
                drawn.append(torch.empty(0, dtype=torch.long))
                continue
            own, h = logits[place[i]], hidden[place[i]]
            action = policy.act(h, taus[i], logits=own, step=step, generator=generator)
            token, log_prob, entropy = sample_token(own, action.temperature, generator)
            going = torch.ones_like(token, dtype=torch.bool)
            steps[i].append((rows[i], going, token, action, log_prob, entropy, h if keep_hidden else None))
            ends = (token[:, None] == eos).any(1)
            finished[i][rows[i][ends]] = True
            rows[i], taus[i], place[i] = rows[i][~ends], action.temperature[~ends], place[i][~ends]
            drawn.append(token[~ends])
        wanted = torch.cat([torch.stack((nodes[p], token), 1) for p, token in zip(place, drawn)])
        if not len(wanted) or step + 1 == max_new_tokens:
            break
        new, number = torch.unique(wanted, dim=0, return_inverse=True)  # (n, 2) parent and token
        hidden = tree.extend(new[:, 1], new[:, 0])
        nodes, place = tree.nodes, list(number.split([len(token) for token in drawn]))
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    padded = torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt in prompts])
    return [sample.assemble(padded, lengths, samples, s, f) for s, f in zip(steps, finished)]
