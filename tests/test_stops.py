"""stops.py: texts that end a completion, inside a token and across tokens, against a search of the text."""

import pytest
import torch
from conftest import SHARED, byte_level
from hypothesis import given, settings
from hypothesis import strategies as st

import baselines
import model
import sample
import tasks
import tokenizer
from problems import stops

STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple)


@pytest.fixture(scope="module")
def smollm2():
    folder = SHARED / "data" / "tokenizers" / "smollm2"
    if not folder.is_dir():
        pytest.skip("needs the folder of real data, shared/ beside the repository")
    return tokenizer.load(folder)


class Pieces:
    """A vocabulary of these tokens."""

    def __init__(self, *pieces: bytes):
        self.pieces, self.vocab_size = pieces, len(pieces)

    def token_bytes(self, token: int) -> bytes:
        return self.pieces[token]


PIECES = Pieces(*(text.encode() for text in ("a", "b", "\n", "ab", "ba", "\n\n", "aab", "b\na", "", "é", "x")))


def first_end(ids: list[int], eos_ids: set[int], texts: tuple[str, ...]) -> int:
    """How many tokens it takes, by a search of the whole text; more than there are where none ends it."""
    for count in range(1, len(ids) + 1):
        text = b"".join(map(PIECES.token_bytes, ids[:count]))
        if ids[count - 1] in eos_ids or any(stop.encode() in text for stop in texts):
            return count
    return len(ids) + 1


@settings(max_examples=200)
@given(STOPS, st.lists(st.lists(st.integers(0, 12), min_size=8, max_size=8), min_size=1, max_size=4))
def test_rows_end_where_a_search_of_their_text_finds_a_stop(texts, rows):
    """Rows leave in any order, and ids beyond the vocabulary are sampled, as padded models do."""
    rows = [[min(token, 11) for token in row] for row in rows]
    known = [[token if token < 11 else 8 for token in row] for row in rows]  # 11 has no bytes, as 8
    stop = tasks.Stop(PIECES, {10}, texts)
    going, ended = torch.arange(len(rows)), {}
    for step in range(8):
        over = stop.ended(step, going, torch.tensor([rows[row][step] for row in going.tolist()]))
        ended |= {row: step + 1 for row in going[over].tolist()}
        going = going[~over]
        if not len(going):
            break
    assert [ended.get(row, 9) for row in range(len(rows))] == [first_end(ids, {10}, texts) for ids in known]


def test_a_newline_is_in_many_tokens(smollm2):
    stop = tasks.stop_of(smollm2, ("\n",))
    every = torch.arange(smollm2.vocab_size)
    ids = set(every[stop.ended(0, every, every)].tolist()) - tasks.stop_ids(smollm2)
    assert ids == {i for i in every.tolist() if b"\n" in smollm2.token_bytes(i)} - tasks.stop_ids(smollm2)
    assert len(ids) > 20 and smollm2.encode("\n\n")[0] in ids and smollm2.encode("a")[0] not in ids


def test_completions_end_at_a_stop_text_inside_a_token_and_across_tokens(smollm2):
    """From sampling to the text that is rewarded; without a stop text the texts are those of the completions."""
    torch.manual_seed(0)
    sizes = dict(d_model=8, n_layers=1, n_heads=1, n_kv_heads=1, d_head=8, d_mlp=8, max_length=64, tied=True)
    transformer = model.Transformer(model.Config(vocab_size=smollm2.vocab_size + 8, **sizes))
    eos, stop = tasks.stop_ids(smollm2), tasks.stop_of(smollm2, ("e",))
    with torch.no_grad():
        transformer.embed.weight.normal_(std=0.02)
    generator = torch.Generator().manual_seed(0)
    rollout = sample.generate(transformer, baselines.Fixed(1.5), [[5, 6]], 64, 3, eos, generator, stop=stop)
    texts, plain = tasks.completion_texts(rollout, smollm2, ("e",)), tasks.completion_texts(rollout, smollm2)
    assert 8 < rollout.finished.sum() < 64 and not any("e" in text for text in texts)
    for text, whole, ids, finished in zip(texts, plain, rollout.completions(), rollout.finished.tolist()):
        assert text == whole.partition("e")[0] and ("e" in whole) == finished
        assert whole.startswith(smollm2.decode(ids).rstrip("\ufffd"))


def test_texts_without_a_stop_are_the_completions(tmp_path):
    vocabulary = byte_level(tmp_path, "<|endoftext|>", "<|im_start|>", "<|im_end|>")
    vocabulary.eos_ids = {256}
    rows = [([65, 66, 256], True), ([67, 258], True), ([68, 69, 70], False), ([256], True)]
    tokens = torch.zeros(4, 5, dtype=torch.long)
    mask = torch.zeros(4, 5, dtype=torch.bool)
    for row, (ids, _) in enumerate(rows):
        tokens[row, :2] = torch.tensor([1, 2])
        tokens[row, 2 : 2 + len(ids)], mask[row, 2 : 2 + len(ids)] = torch.tensor(ids), True
    rollout = sample.Rollout(tokens, torch.full((4,), 2), mask, *[None] * 6, torch.tensor([done for _, done in rows]))
    assert tasks.completion_texts(rollout, vocabulary) == [vocabulary.decode(ids) for ids in rollout.completions()]
    assert tasks.completion_texts(rollout, vocabulary) == ["AB", "C", "DEF", ""]
    assert tasks.completion_texts(rollout, vocabulary, ("B", "EF")) == ["A", "C", "D", ""]
    assert stops.cut("é\nx\né", ("x", "\n")) == "é"


def test_a_prompt_that_begins_the_thinking_gives_texts_that_do(tmp_path):
    vocabulary = byte_level(tmp_path, "<|endoftext|>", "<think>", "</think>")
    vocabulary.eos_ids = {256}
    prompts = [[*b"Why?", 257, 10], list(b"Why?")]
    completion = [*b"7", 258, *b"8", 256]
    tokens = torch.tensor([prompts[0] + completion, prompts[1] + completion + [0, 0]])
    lengths = torch.tensor([6, 4])
    column = torch.arange(tokens.shape[1])
    mask = (column >= lengths[:, None]) & (column < lengths[:, None] + 4)
    rollout = sample.Rollout(tokens, lengths, mask, *[None] * 6, torch.tensor([True, True]))
    assert tasks.completion_texts(rollout, vocabulary) == ["<think>7</think>8", "7</think>8"]
    assert tasks.rewards([tasks.Problem("?", "8")] * 2, tasks.completion_texts(rollout, vocabulary), [True] * 2) == [
        1,
        1,
    ]


def test_the_stops_of_a_run_are_its_flag_s_or_else_its_task_s(monkeypatch):
    problem = tasks.load("modular", "test", 1)[0]
    assert tasks.stops_of(problem) == () == tasks.stops_of("Why?", tasks.Prompt())
    assert tasks.stops_of("Why?", tasks.Prompt(stop="\\n\\n")) == ("\n\n",)
    monkeypatch.setattr(tasks.GENERATED["modular"], "stops", (";",))
    assert tasks.stops_of(problem) == (";",) and tasks.stops_of(problem, tasks.Prompt(stop="x")) == ("x",)
