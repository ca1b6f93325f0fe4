"""A run's folder in other hands: transformers loads it and samples at the head's temperatures; engines can read it."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import baselines
import model
import rl
import sample
import tasks
import temperature_head
import tokenizer
from trainer import checkpoint

transformers = pytest.importorskip("transformers", reason="what is tested here is how transformers reads a run")
ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "docs" / "generate_with_transformers.py"
SIZES = dict(vocab_size=259, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_head=8, d_mlp=48, max_length=64)
GPT2 = dict(norm="layer", norm_eps=1e-5, position="learned", mlp="gelu", qkv_bias=True, out_bias=True, mlp_bias=True)
FAMILIES = {
    "gpt2": ("GPT2LMHeadModel", SIZES | GPT2 | dict(n_kv_heads=4, tied=True)),
    "llama": ("LlamaForCausalLM", SIZES),
    "qwen2": ("Qwen2ForCausalLM", SIZES | dict(qkv_bias=True, tied=True)),
    "qwen3": ("Qwen3ForCausalLM", SIZES | dict(qk_norm=True)),
    "qwen3-tied": ("Qwen3ForCausalLM", SIZES | dict(qk_norm=True, tied=True)),
}
PROMPTS = ["3,5,7=22:", "1,", "12,11,10=33:"]  # of different lengths


def load_script():
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


script = load_script()


def write_run(run: Path, sizes: dict, policy=None) -> Path:
    """What a run of this model writes: random weights, lively logits and temperatures; some bytes end a completion."""
    vocabulary = run / "vocabulary"
    vocabulary.mkdir(parents=True)
    ends = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    (vocabulary / "tokenizer.json").write_text(json.dumps(tokenizer.byte_level_file(ends)))
    (vocabulary / "config.json").write_text(json.dumps({"eos_token_id": [256, *range(0, 256, 16)]}))
    torch.manual_seed(1)
    transformer = model.Transformer(model.Config(**sizes))
    head = policy or temperature_head.TemperatureHead(sizes["d_model"], tau_initial=0.8)
    with torch.no_grad():
        for parameter in [*transformer.parameters(), *head.parameters()]:
            parameter.add_(0.2 * torch.randn_like(parameter))
    folder = run / "checkpoints" / "step-000001"
    checkpoint.write(folder, 1, transformer, transformer.state_dict(), head, tokenizer.load(vocabulary), {}, {})
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def run(request, tmp_path_factory) -> tuple[Path, str]:
    """(a run's folder, the class that transformers loads it as)."""
    architecture, sizes = FAMILIES[request.param]
    return write_run(tmp_path_factory.mktemp(request.param), sizes), architecture


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("one"), FAMILIES["qwen3-tied"][1])


# ---- transformers ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_same_logits(run):
    folder, architecture = run
    theirs, ours = transformers.AutoModelForCausalLM.from_pretrained(folder), model.load(folder)
    assert type(theirs).__name__ == architecture
    tokens = torch.randint(259, (3, 40), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(theirs(tokens).logits, ours.unembed(ours(tokens)), rtol=1e-4, atol=1e-4)


def generated(
    folder: Path, samples: int = 3, length: int = 20
) -> tuple[sample.Rollout, temperature_head.TemperatureHead]:
    """What `generate` drew for all prompts at once, padded on the left, as a Rollout of ours, padded on the right."""
    theirs, words, head = script.load(str(folder), "cpu")
    asked = words(PROMPTS, return_tensors="pt", padding=True)
    assert words.padding_side == "left" and not asked["attention_mask"].all()
    torch.manual_seed(0)
    with script.TemperaturePolicy(theirs, head) as policy:
        told = theirs.generate(
            **asked, max_new_tokens=length, num_return_sequences=samples, pad_token_id=words.pad_token_id,
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, logits_processor=[policy],
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
    assert not policy.norm._forward_hooks, "the hook is gone with the call"
    log_probs = torch.stack(told.scores, dim=1).log_softmax(-1)  # (B, T, V), after the division by tau_t
    drawn, ends = told.sequences[:, asked["input_ids"].shape[1] :], tokenizer.load(folder).eos_ids
    rows, width = len(drawn), max(map(len, PROMPTS)) + length
    rollout = sample.Rollout(
        tokens=torch.zeros(rows, width, dtype=torch.long),
        prompt_lengths=torch.tensor([len(PROMPTS[row // samples]) for row in range(rows)]),
        mask=torch.zeros(rows, width, dtype=torch.bool),
        **{
            name: torch.zeros(rows, width) for name in ("temperatures", "z", "token_log_probs", "temperature_log_probs")
        },
        changed=torch.zeros(rows, width, dtype=torch.bool),
        entropies=torch.zeros(rows, width),
        finished=torch.zeros(rows, dtype=torch.bool),
    )
    for row, ids in enumerate(drawn.tolist()):
        prompt = list(PROMPTS[row // samples].encode())
        used = next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))
        here = slice(len(prompt), len(prompt) + used)
        rollout.tokens[row, : here.stop] = torch.tensor(prompt + ids[:used])
        rollout.mask[row, here], rollout.finished[row] = True, ids[used - 1] in ends
        for field, name in (("temperatures", "temperature"), ("changed", "changed"), ("z", "z")):
            getattr(rollout, field)[row, here] = torch.stack([getattr(a, name)[row] for a in policy.actions[:used]])
        rollout.temperature_log_probs[row, here] = torch.stack([a.log_prob[row] for a in policy.actions[:used]])
        rollout.token_log_probs[row, here] = log_probs[row, range(used), ids[:used]]
    return rollout, head


def test_what_generate_draws_has_the_log_probs_of_training(run):
    """Tokens at the temperatures they were drawn at, temperatures at the states they were drawn from: in every row."""
    folder, _ = run
    rollout, head = generated(folder)
    ours, mask = model.load(folder), rollout.mask
    assert mask.sum() > 60 and 0 < rollout.finished.sum() < len(mask), "some rows end before others"
    with torch.no_grad():
        found = rl.token_log_probs(ours, rollout)
        states = rl.PlainGradient().states(ours, rollout)
    torch.testing.assert_close(found, rollout.token_log_probs, rtol=0, atol=1e-4)
    action = temperature_head.Action(*(field[mask] for field in (rollout.temperatures, rollout.changed, rollout.z)))
    torch.testing.assert_close(head.log_prob(states, action), rollout.temperature_log_probs[mask], rtol=0, atol=1e-4)


def test_a_temperature_that_is_kept_is_the_rows_own(one):
    rollout, head = generated(one)
    kept = 0
    for row, length in enumerate(rollout.prompt_lengths.tolist()):
        previous = head.tau_initial
        for place in rollout.mask[row].nonzero()[:, 0].tolist():
            tau, changed = float(rollout.temperatures[row, place]), bool(rollout.changed[row, place])
            chosen = head.tau_min + float(rollout.z[row, place]) * (head.tau_max - head.tau_min)
            assert tau == pytest.approx(chosen if changed else previous, abs=1e-6), (row, place - length)
            kept, previous = kept + (not changed), tau
    assert kept > 10 and len(set(rollout.temperatures[rollout.mask].tolist())) > 20


# ---- the command ----------------------------------------------------------------------------------------------------


def here(monkeypatch, capsys, *words) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        script.main()
        sys.exit(0)
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_the_command_needs_two_files_of_this_repository(one, tmp_path):
    (tmp_path / "docs").mkdir()
    shutil.copy(SCRIPT, tmp_path / "docs")
    for name in ("temperature_head.py", "token_policy.py"):
        shutil.copy(ROOT / name, tmp_path)
    words = ["--model", one, "--prompt", *PROMPTS, "--samples", "2", "--max-new-tokens", "9"]
    command = [sys.executable, tmp_path / "docs" / SCRIPT.name, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0 and not done.stderr, done.stderr
    rows = done.stdout.splitlines()
    assert [row.partition(" ")[0] for row in rows if row.startswith(tuple(PROMPTS))] == [
        p for p in PROMPTS for _ in "ab"
    ]
    command[command.index(one)] = tmp_path / "absent"
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"{SCRIPT.name}: {tmp_path / 'absent'}")


@pytest.mark.parametrize("kind", ["sequence", "entropy-only"])
def test_other_heads_choose_too(kind, tmp_path):
    """One temperature a completion, or one that is read off the entropy of the logits."""
    model, words, head = script.load(str(write_run(tmp_path, SIZES, script.HEADS[kind](32))), "cpu")
    torch.manual_seed(0)
    rows = [{tau for _, tau in row} for row in script.complete(model, words, head, PROMPTS, 4, 12)]
    assert len(set.union(*rows)) > 8 and all(len(taus) == 1 for taus in rows) == (kind == "sequence")


def test_the_seed_fixes_what_it_prints(one, monkeypatch, capsys):
    said = [here(monkeypatch, capsys, "--model", one, "--prompt", "7", "--seed", seed) for seed in (1, 1, 2)]
    assert said[0] == said[1] and said[0][1] != said[2][1] and said[0][0] == 0


@pytest.mark.parametrize(
    "words, said",
    [
        ("--model models/countdown --prompt 1", "models/countdown/temperature_head.safetensors: missing"),
        ("--model CUT --prompt 1", "CUT"),
        ("--model TAMPO --prompt 1", "this version cannot read this temperature policy"),
        ("--model LIKELY --prompt 1", "trained with a cut of unlikely tokens"),
        ("--model OTHER --prompt 1", "the temperature head and the model have different widths"),
        (
            "--model ONE --prompt 1 --max-new-tokens 64",
            "a prompt of 1 tokens and 64 new tokens exceed the model's context",
        ),
        ("--model ONE --prompt 1 --samples 0", "--samples must be at least 1"),
        ("--model ONE --prompt 1 --samples x", "--samples"),
        ("--prompt 1", "--model"),
    ],
)
def test_a_mistake_is_one_line(words, said, one, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    if "TAMPO" in words:
        shutil.copytree(one, tmp_path / "TAMPO")
        temperature_head.save(baselines.TAMPO(), tmp_path / "TAMPO")
    if "OTHER" in words or "CUT" in words:
        folder = shutil.copytree(one, tmp_path / ("OTHER" if "OTHER" in words else "CUT"))
        temperature_head.TemperatureHead(16 if "OTHER" in words else 32).save(folder)
    if "LIKELY" in words:
        shutil.copytree(one, tmp_path / "LIKELY")
        (tmp_path / "LIKELY" / "run.json").write_text('{"policy": "own+min_p=0.1"}')
    if "CUT" in words:
        (folder / "config.json").write_bytes(b"{")
    named = [str(tmp_path / word) if word in ("TAMPO", "OTHER", "CUT", "LIKELY") else word for word in words.split()]
    code, _, error = here(monkeypatch, capsys, *(str(one) if word == "ONE" else word for word in named))
    assert code == 2 and said in error, error
    assert len(error.strip().splitlines()) == 1 and error.startswith(f"{SCRIPT.name}: "), error


# ---- engines --------------------------------------------------------------------------------------------------------


def test_what_an_engine_reads(run):
    """By format: what vLLM and SGLang ask of a folder, neither of which is installed where this is tested."""
    folder, architecture = run
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [architecture] and architecture.lower().startswith(config["model_type"])
    assert config["dtype"] == config["torch_dtype"] == "float32" and "quantization_config" not in config
    # They open every *.safetensors of a folder, unless an index says which; the head's tensors are none of the model's.
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert (
        {file.name for file in folder.glob("*.safetensors")}
        > set(index["weight_map"].values())
        == {"model.safetensors"}
    )
    with safe_open(folder / "model.safetensors", framework="pt") as opened:
        names, size = set(opened.keys()), sum(opened.get_tensor(name).nbytes for name in opened.keys())
        assert opened.metadata() == {"format": "pt"}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tied = {"lm_head.weight"} if config["tie_word_embeddings"] else set()
    assert (
        names == set(index["weight_map"]) == set(theirs.state_dict()) - tied and index["metadata"]["total_size"] == size
    )
    # The tokenizer as both load it; its ids are to be those of training.
    words, ours = transformers.AutoTokenizer.from_pretrained(folder), tokenizer.load(folder)
    text = "a12 \u00e9 12<|im_end|>"
    assert words(text)["input_ids"] == ours.encode(text, allow_added=True)
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"]
    # Sampling is the policy's alone; a completion ends where it ended in training.
    generation = json.loads((folder / "generation_config.json").read_text())
    assert set(generation) == {"eos_token_id"} and set(generation["eos_token_id"]) == tasks.stop_ids(ours) > {256, 258}
