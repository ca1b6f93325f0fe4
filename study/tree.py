"""Sampling a frozen model under many temperature policies at once: each distinct prefix is computed once.

At low temperatures most samples of a problem begin alike, under one policy as under the next.  `generate` gives what
sample.generate gives for each policy in turn; it keeps one node a distinct prefix, with its keys, values and h_t, and reads
what all prompts begin with (the worked examples) once.  For tests of a few thousand completions this saves most of the work.
"""

import itertools

import torch
from torch import Tensor

import sample
from engine.draw import draw_token
from token_policy import cut


def halve(transformer) -> None:
    """The products of the layers in bfloat16, as on a GPU; on processors that have them this takes half the time.

    Norms, attention and logits stay in float32."""
    for module in transformer.layers.modules():
        if isinstance(module, torch.nn.Linear):
            module.to(torch.bfloat16)


class Tree:
    """Nodes: one token each, after a common beginning.  `path[i]` are the nodes that node i reads, itself last."""

    def __init__(self, transformer, prompts: list[list[int]], depth: int, capacity: int):
        """`depth`: nodes of the longest path, `capacity`: nodes in all."""
        c = self.config = transformer.config
        self.transformer, self.count = transformer, 0
        self.half = transformer.layers[0].mlp.up.weight.dtype == torch.bfloat16  # see `halve`
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
            with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
                transformer(torch.tensor([prompts[0][: self.begun]]), self)
        self.attend = self.read_paths
        ends, parents = [], []
        for ids in prompts:
            size = len(ids) - self.begun
            parents += [-1, *range(len(parents), len(parents) + size - 1)]
            ends.append(len(parents) - 1)
        hidden = self.extend(torch.tensor([t for ids in prompts for t in ids[self.begun :]]), torch.tensor(parents))
        last = torch.tensor(ends)
        self.roots, self.root_hidden = last, hidden[last]  # (P,), (P, d)

    def extend(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """New nodes `tokens` (n,) behind `parents` (n,), which are older or earlier in `tokens`: their hidden states (n, d)."""
        self.nodes = self.count + torch.arange(len(tokens))
        own = parents >= self.count - (self.count == 0)  # a chain: its node's parent is new too
        for node, parent in zip(self.nodes[own].tolist(), parents[own].tolist()):
            if parent >= 0:
                self.path[node], self.length[node] = self.path[parent], self.length[parent]
            self.path[node, self.length[node]] = node
            self.length[node] += 1
        old, parents = self.nodes[~own], parents[~own]
        self.path[old], self.length[old] = self.path[parents], self.length[parents] + 1
        self.path[old, self.length[parents]] = old
        self.count += len(tokens)
        self.positions = (self.begun + self.length[self.nodes] - 1)[None]
        self.reads = self.path[self.nodes, : int(self.length[self.nodes].max())]  # (n, D)
        self.layers = iter(range(self.config.n_layers))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            return self.transformer(tokens[None], self)[0]

    def reader(self, tokens: Tensor):
        """What model.Transformer asks of a cache.  Attention is in float32, whatever the products are in."""

        def read(*heads: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return self.attend(*(x.float() for x in heads))

        return self.positions, read

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
    generators: list[torch.Generator], keep_reads: bool = False,
) -> list[sample.Rollout]:  # fmt: skip
    """A Rollout of each policy, as sample.generate draws it; each policy has a generator of its own."""
    longest, eos = sample.check_lengths(transformer, prompts, max_new_tokens), torch.tensor(sorted(eos_ids))
    capacity = sum(map(len, prompts)) + len(prompts) * samples * max_new_tokens * len(policies)
    tree = Tree(transformer, prompts, longest + max_new_tokens, capacity)
    hidden, nodes = tree.root_hidden, tree.roots
    count = len(prompts) * samples
    place = [torch.arange(len(prompts)).repeat_interleave(samples) for _ in policies]  # of each row in `hidden`
    rows = [torch.arange(count) for _ in policies]
    taus = [torch.full((count,), float(policy.tau_initial)) for policy in policies]
    drawn: list[list] = [[] for _ in policies]
    for step in range(max_new_tokens):
        logits, tokens = transformer.unembed(hidden), []
        for i, (policy, generator) in enumerate(zip(policies, generators)):
            if not len(rows[i]):
                tokens.append(rows[i])
                continue
            own = logits[place[i]]
            margin = cut(own, policy.min_p, policy.top_p)
            reads = policy.reads(hidden[place[i]], own)
            if hasattr(policy, "rows"):  # one that has a choice for every row (real.Dealt)
                policy.rows = rows[i]
            action = policy.act(reads, taus[i], logits=own, step=step, generator=generator)
            token, log_prob, entropy = draw_token(own, action.temperature, generator)
            ends = (token[:, None] == eos).any(1)
            kept = reads if keep_reads else None
            drawn[i].append((rows[i], torch.ones_like(ends), token, ends, action, log_prob, entropy, margin, kept))
            if policy.see is not None:
                policy.see(step, token, action.temperature)
            rows[i], taus[i], place[i] = rows[i][~ends], action.temperature[~ends], place[i][~ends]
            tokens.append(token[~ends])
        wanted = torch.cat([torch.stack((nodes[p], token), 1) for p, token in zip(place, tokens)])
        if not len(wanted) or step + 1 == max_new_tokens:
            break
        new, number = torch.unique(wanted, dim=0, return_inverse=True)  # (n, 2) parent and token
        hidden = tree.extend(new[:, 1], new[:, 0])
        nodes, place = tree.nodes, list(number.split([len(token) for token in tokens]))
    return [sample.assemble(prompts, samples, longest, of_policy) for of_policy in drawn]
