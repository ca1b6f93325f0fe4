"""The command lines, as a user types them: whole runs in processes of their own, and mistakes that end in one line."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import config
import eval as evaluation
import model
import plot
import rl
import sample
import tasks
import tokenizer
import train
from display import report
from models import pretrain
from trainer import checkpoint, checks

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {"train.py": train, "eval.py": evaluation, "sample.py": sample, "plot.py": plot, "pretrain.py": pretrain}
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
SHORT = dict(
    steps=3, prompts_per_step=2, samples_per_prompt=2, max_new_tokens=6, eval_problems=2, final_problems=3, eval_samples=2,
    print_every=1, device="cpu", token_entropy=0.01, temperature_entropy=0.01, token_lr=1e-3,
)  # fmt: skip


def command(script: str, *words, **flags) -> subprocess.CompletedProcess:
    """One command in a process of its own; it must end well."""
    line = [sys.executable, str(ROOT / script), *map(str, words), *as_words(flags)]
    done = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done


def as_words(flags: dict) -> list[str]:
    return [word for name, value in flags.items() for word in ("--" + name.replace("_", "-"), str(value))]


@pytest.fixture
def here(monkeypatch, capsys):
    """here("eval.py", words...) -> (exit code, standard output, standard error), in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for name, value in (("HF_HUB_OFFLINE", "1"), ("COLUMNS", "300")):
        monkeypatch.setenv(name, value)

    def call(script: str, *words, **flags) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [script, *map(str, words), *as_words(flags)])
        capsys.readouterr()
        code = 0
        try:
            COMMANDS[script].main()
        except KeyboardInterrupt:
            pytest.fail("a traceback of KeyboardInterrupt")
        except SystemExit as ended:
            code = ended.code
            if isinstance(code, str):  # sys.exit("text") prints it, and ends with 1
                print(code, file=sys.stderr)
                code = 1
        return code or 0, *capsys.readouterr()

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def write_model(folder: Path, vocabulary_size: int, max_length: int, eos: int) -> Path:
    torch.manual_seed(0)
    transformer = model.Transformer(
        model.Config(
            vocab_size=vocabulary_size, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_head=8, d_mlp=24,
            max_length=max_length, qk_norm=True, tied=True,
        )
    )  # fmt: skip
    transformer.original_config = {"eos_token_id": eos}
    model.save(transformer, folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Random weights in Qwen3 format, one token a byte."""
    folder = write_model(tmp_path_factory.mktemp("base"), 257, 96, 256)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer.byte_level_file(["<|endoftext|>"])))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory) -> tuple[Path, str]:
    """(the folder of a run, what the command printed)."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    return run, command("train.py", model=base, task="countdown:4", out=run, **SHORT | {"save_every": 1}).stdout


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    """Random weights in Qwen3 format under Qwen3's own vocabulary."""
    shared = ROOT.parent / "shared" / "data" / "tokenizers"
    if not shared.is_dir():
        pytest.skip("needs the folder of real data, shared/ beside the repository")
    folder = write_model(tmp_path_factory.mktemp("qwen"), 151_936, 4096, 151_645)
    spec = json.loads((shared / "qwen2" / "tokenizer.json").read_text())
    spec["added_tokens"] = json.loads((shared / "qwen3" / "added_tokens.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    return folder


# ---- a run from end to end ------------------------------------------------------------------------------------------


def test_a_run_leaves_all_its_files(trained):
    run, _ = trained
    files = {file.name for file in run.iterdir()}
    assert files >= {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "temperature_head.safetensors",
        "metrics.jsonl", "samples.jsonl", "trainer_state.pt", "run.json", "before.json", "after.json", "table.md",
        "run.png", "heat_map.png", "report.html", "checkpoints", "tensorboard",
    }  # fmt: skip
    assert (run / "run.png").read_bytes().startswith(b"\x89PNG") and (run / "run.png").stat().st_size > 5_000
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    state = torch.load(run / "trainer_state.pt", weights_only=True)
    assert state["step"] == 3 and set(state["optimizers"]) == {"token", "temperature"}
    settings = json.loads((run / "run.json").read_text())
    assert settings["task"] == "countdown:4" and settings["samples_per_prompt"] == 2


def test_a_run_logs_every_step(trained):
    rows = [json.loads(line) for line in (trained[0] / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]
    wanted = {"reward", "groups_with_signal", "tokens", "truncated", "entropy", "changed", "tau/mean", "tau/std"}
    wanted |= {
        f"{side}/{name}" for side in ("token", "temperature") for name in ("loss", "gradient_norm", "kl", "clipped")
    }
    for row in rows:
        assert wanted <= set(row) and all(math.isfinite(value) for value in row.values())
        assert row["token/gradient_norm"] > 0 and row["temperature/gradient_norm"] > 0
        assert 0.1 <= row["tau/mean"] <= 1.5 and 0 < row["entropy"] <= math.log(257)


def test_a_run_ends_with_a_table_of_before_and_after(trained):
    run, printed = trained
    table = (run / "table.md").read_text().strip()
    assert re.search(r"greedy answers: \d problems solved that were not before, \d no longer, of 3\n", printed)
    assert table in printed and "run.png" in printed and "heat_map.png" in printed and "report.html" in printed
    rows = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert rows == [f"{when}, {policy}" for when in ("before", "after") for policy in ("own", "1.0", "greedy")]
    for when in ("before", "after"):
        summaries = json.loads((run / f"{when}.json").read_text())
        assert all(summary["problems"] == 3 for summary in summaries.values())


def test_a_run_shows_completions_with_their_temperatures(trained):
    run, printed = trained
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    of_training = [row for row in rows if "when" not in row]
    assert [row["step"] for row in of_training] == [0, 1, 2]
    before, after = ([row["problem"] for row in rows if row.get("when") == when] for when in ("before", "after"))
    assert before == after and len(before) == len(set(before)) == 3
    for row in rows:  # one entry a token in every column
        columns = [value for name, value in row.items() if isinstance(value, list) and name != "range"]
        assert len(columns) == 9 and {len(column) for column in columns} == {len(row["pieces"])} != {0}
    first = of_training[0]
    assert f"step 0  wrong  {first['problem']}" in printed and f"[{first['taus'][0]:.2f}]" in printed
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count('class="token"') == sum(len(row["pieces"]) for row in rows)
    assert "\x1b" not in printed, "no colours where there is no terminal"


def test_the_folder_of_a_run_loads_in_transformers(trained, base):
    run, _ = trained
    theirs, ours = transformers.AutoModelForCausalLM.from_pretrained(run), model.load(run)
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    tokens = torch.randint(257, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours.unembed(ours(tokens)), theirs(tokens).logits, rtol=1e-4, atol=1e-4)
    vocabulary = transformers.AutoTokenizer.from_pretrained(run)
    assert vocabulary.encode("3,5,7=22:") == tokenizer.load(run).encode("3,5,7=22:")
    before = load_file(base / "model.safetensors")
    assert any(not torch.equal(before[name], after) for name, after in load_file(run / "model.safetensors").items())


@pytest.mark.parametrize("policy", ["own+min_p=0.1", "2+top_p=0.8"])
def test_tokens_learn_under_a_cut(policy, tmp_path, here):
    """Both sides move, each ratio is 1 when it is first asked, and what follows asks the run under the same cut."""
    if not (ROOT / "models/countdown").is_dir():
        pytest.skip("models/countdown/ is not here")
    run, flags = tmp_path / "run", dict(task="countdown", policy=policy, steps=2, final_problems=8, prompts_per_step=8)
    code, _, error = here("train.py", out=run, device="cpu", **flags)
    assert code == 0, error
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["token/gradient_norm"] > 0 and abs(row["token/kl"]) < 1e-6 and row["token/clipped"] == 0
        assert policy[0] == "2" or row["temperature/gradient_norm"] > 0
    before = load_file(ROOT / "models/countdown" / "model.safetensors")
    assert any(not torch.equal(before[name], after) for name, after in load_file(run / "model.safetensors").items())
    words = ["--model", run, "--benchmark", "countdown", "--problems", "4", "--samples", "2"]
    assert f"| countdown, {policy} |" in here("eval.py", *words)[1]
    other = flags | dict(steps=4, out=run, policy=policy.partition("+")[0], device="cpu")
    code, _, error = here("train.py", "--resume", **other)
    assert code == 2 and f"policy was '{policy}'" in error


def test_resume_goes_on_from_the_newest_checkpoint(trained, base, tmp_path, here):
    run = shutil.copytree(trained[0], tmp_path / "run")
    flags = SHORT | dict(model=base, task="countdown:4", out=run, save_every=1)
    code, _, error = here("train.py", "--resume", out=run, steps=5)  # the rest is what the run began with
    assert code == 0, error
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [line for line in (trained[0] / "metrics.jsonl").open()] == [
        line for line in (run / "metrics.jsonl").open()
    ][:3]
    code, _, error = here("train.py", "--resume", **flags | {"seed": 3})
    assert code == 2 and "seed was 0 and is 3" in error and len(error.splitlines()) == 1


def test_ctrl_c_saves_ends_well_and_can_be_resumed(base, tmp_path, here):
    run = tmp_path / "run"
    flags = SHORT | dict(model=base, task="countdown:4", out=run, steps=100_000, save_every=100_000, print_every=0)
    line = [sys.executable, str(ROOT / "train.py"), *as_words(flags)]
    with open(tmp_path / "printed", "w") as printed:
        process = subprocess.Popen(line, stdout=printed, stderr=subprocess.STDOUT, env=ENVIRONMENT)
        while process.poll() is None and not (
            (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size
        ):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
    text = (tmp_path / "printed").read_text()
    assert code == 0 and "Traceback" not in text, text
    done = len((run / "metrics.jsonl").read_text().splitlines())
    assert f"stopped after step {done}" in text and "--resume" in text
    assert checkpoint.whole_checkpoints(run)[-1].name == f"step-{done:06d}" and not (run / "after.json").exists()
    code, _, error = here("train.py", "--resume", **flags | {"steps": done + 1})
    assert code == 0, error
    assert len((run / "metrics.jsonl").read_text().splitlines()) == done + 1 and (run / "run.png").exists()


def test_ctrl_c_in_the_first_evaluation_is_no_traceback(base, tmp_path, here, monkeypatch):
    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate", interrupted)
    code, _, _ = here("train.py", model=base, task="countdown:4", out=tmp_path / "run", **SHORT)
    assert code


@pytest.mark.parametrize("task, base", [("countdown", "models/countdown"), ("modular", "models/modular")])
def test_the_shipped_models_run(task, base, tmp_path):
    """`python train.py` as it is, but for its length; and the same of Countdown."""
    if not (ROOT / base).is_dir():
        pytest.skip(f"{base}/ is not here")
    run = tmp_path / "run"
    flags = {} if task == "modular" else dict(task=task)
    flags |= dict(steps=2, final_problems=20, eval_samples=2, prompts_per_step=8, samples_per_prompt=8, print_every=1)
    printed = command("train.py", out=run, device="cpu", **flags).stdout
    assert "after, own" in printed and "run.png" in printed
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(row["truncated"] < 0.5 for row in rows), "it knows the form of an answer"
    assert sum(file.stat().st_size for file in (ROOT / base).iterdir()) < 10 * 2**20


# ---- real maths -----------------------------------------------------------------------------------------------------


def test_real_maths_on_a_real_vocabulary(qwen, shared, tmp_path):
    """A run on MATH, then the six benchmarks of the paper in one call, with the run's own temperatures."""
    run, data = tmp_path / "math", shared / "data"
    flags = SHORT | dict(steps=2, model=qwen, task=data / "math_train_12k.jsonl", out=run)
    printed = command("train.py", **flags).stdout
    assert "after, own" in printed
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert row["token/gradient_norm"] > 0 and row["temperature/gradient_norm"] > 0 and abs(row["token/kl"]) < 1e-6
    before, after = (load_file(folder / "model.safetensors") for folder in (qwen, run))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    names = ["math500", "aime24", "amc23", "minerva_math", "olympiadbench", "omni_math_partial"]
    files = [data / f"{name}.jsonl" for name in names]
    out = tmp_path / "figures.json"
    flags = dict(model=run, problems=2, samples=2, max_new_tokens=6, device="cpu", out=out)
    table = command("eval.py", "--benchmark", *files, "--policy", "own", **flags).stdout
    results = json.loads(out.read_text())["results"]
    assert list(results) == [f"{name}, own" for name in names]
    for name, figures in results.items():
        assert f"| {name} |" in table and figures["problems"] == 2 and len(figures["successes"]) == 2


def test_gsm8k_from_its_file(qwen, shared, tmp_path, here):
    flags = SHORT | dict(steps=1, model=qwen, task=shared / "data" / "gsm8k_train.jsonl", out=tmp_path / "run")
    code, printed, error = here("train.py", eval_task=shared / "data" / "gsm8k_test.jsonl", **flags)
    assert code == 0 and "after, own" in printed, error
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    assert settings["max_prompt_tokens"] == 512 and settings["temperature_lr"] == 1e-4


# ---- evaluating, sampling, drawing ----------------------------------------------------------------------------------


def test_eval_compares_policies_on_benchmarks(trained, tmp_path, here):
    out = tmp_path / "figures.json"
    flags = dict(model=trained[0], problems=4, samples=3, max_new_tokens=5, device="cpu", out=out)
    words = ["--benchmark", "countdown:4", "countdown:5", "--policy", "own", "0.7", "greedy", "ead", "edt"]
    code, table, error = here("eval.py", *words, **flags)
    assert code == 0, error
    rows = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    expected = [f"{b}, {p}" for b in ("countdown:4", "countdown:5") for p in ("own", "0.7", "greedy", "ead", "edt")]
    assert rows == expected
    written = json.loads(out.read_text())
    assert list(written["results"]) == expected and written["arguments"]["samples"] == 3
    assert written["results"]["countdown:4, greedy"]["samples"] == 1
    assert written["results"]["countdown:4, 0.7"]["temperature"] == pytest.approx(0.7)
    first = out.read_text()
    assert here("eval.py", *words, **flags)[1] == table and out.read_text() == first
    assert here("eval.py", *words, **flags | {"seed": 1})[0] == 0 and out.read_text() != first


def test_sample_streams_plain_text_where_there_is_no_terminal(trained, here):
    run, _ = trained
    words = ["--model", run, "--prompt", "3,5,7=22:", "--max-new-tokens", "12"]
    printed = command("sample.py", *words).stdout
    assert "\x1b" not in printed
    found = re.search(r"\[(\d+) tokens, mean temperature (\d\.\d\d), (\d\.\d\d) to (\d\.\d\d)\]", printed)
    assert 1 <= int(found[1]) <= 12 and 0.1 <= float(found[3]) <= float(found[2]) <= float(found[4]) <= 1.5
    assert here("sample.py", *words) == (0, printed, "")
    assert here("sample.py", *words, "--seed", "1")[1] != printed
    greedy = [here("sample.py", *words, "--policy", "greedy", "--seed", seed)[1] for seed in "01"]
    assert greedy[0] == greedy[1] and "mean temperature 0.00" in greedy[0]
    assert "0.70 to 0.70" in here("sample.py", *words, "--policy", "0.7")[1]


def test_sample_colours_tokens_on_a_terminal(trained, here, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    code, printed, _ = here("sample.py", model=trained[0], prompt="3,5,7=22:", max_new_tokens=5)
    assert code == 0 and printed.count("\x1b[38;5;") >= 1


def test_plot_draws_a_run_again(trained, tmp_path, here):
    run = shutil.copytree(trained[0], tmp_path / "run")
    drawn = [(run / name) for name in ("run.png", "heat_map.png", "report.html")]
    for file in drawn:
        file.unlink()
    code, printed, error = here("plot.py", run)
    assert code == 0 and all(file.exists() and str(file) in printed for file in drawn), error
    points = tmp_path / "points.json"
    assert (
        here(
            "eval.py",
            model=run,
            benchmark="countdown",
            policy="0.3",
            samples=2,
            problems=3,
            max_new_tokens=5,
            out=points,
        )[0]
        == 0
    )
    code, printed, error = here("plot.py", run, frontier=points)
    assert code == 0 and "countdown, 0.3" in (run / "report.html").read_text(encoding="utf-8"), error
    shutil.copy(points, tmp_path / "others.json")
    code, printed, error = here("plot.py", run, "--frontier", points, tmp_path / "others.json")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert code == 0 and "points, countdown, 0.3" in page and "others, countdown, 0.3" in page, error


@pytest.mark.parametrize("task", ["countdown:4", "modular"])
def test_pretrain_writes_a_folder_that_train_reads(task, tmp_path, here):
    code, _, error = here("pretrain.py", out=tmp_path / "base", task=task, steps=2, batch_size=4)
    assert code == 0, error
    assert tokenizer.load(tmp_path / "base").eos_ids == {256}
    run = tmp_path / "run"
    code, _, error = here("train.py", model=tmp_path / "base", task=task, out=run, **SHORT | {"steps": 1})
    assert code == 0 and (run / "run.png").exists(), error
    assert not (run / "held_out.jsonl").exists(), "they can be generated again"
    (row,) = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if "reward" in line)
    assert any(name in row for name in ("tau/operator", "tau/operand", "tau/format")), "temperatures by what a token is"


@pytest.mark.parametrize("script", ["train.py", "eval.py", "sample.py", "pretrain.py"])
def test_a_narrow_model_has_one_thread(script, base, here, tmp_path, monkeypatch):
    """On many, small operations mostly wait for threads to wake; and one is what the README's figures are of."""
    flags = {
        "train.py": dict(model=base, task="countdown:4", out=tmp_path / "run") | SHORT | {"steps": 1},
        "eval.py": dict(model=base, benchmark="countdown:4", problems=1, samples=1, max_new_tokens=2, policy="1.0"),
        "sample.py": dict(model=base, prompt="3,5,7=22:", max_new_tokens=2),
        "pretrain.py": dict(out=tmp_path / "base", task="countdown:4", steps=1, batch_size=1),
    }
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(report, "draw", lambda run: [])  # which takes longer than the rest
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        code, _, error = here(script, **flags[script])
        assert (code, torch.get_num_threads()) == (0, 1), error
    finally:
        torch.set_num_threads(before)


# ---- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", COMMANDS)
def test_help_says_one_line_a_flag(script, here):
    code, printed, error = here(script, "--help")
    assert code == 0 and not error
    options = printed.partition("options:")[2].partition("\npresets:")[0].splitlines()
    options = [line for line in options if line.startswith(("  -", "     "))]  # without the groups' headings
    flags = [place for place, line in enumerate(options) if line.startswith("  -")]
    assert len(flags) >= (1 if script == "plot.py" else 7)
    for place, end in zip(flags, [*flags[1:], len(options)]):
        said = [line for line in options[place:end] if line.strip()]
        with_meaning = re.fullmatch(r"  -\S+(,? \S+)*\s{2,}\S.*", said[0])
        assert len(said) == 1 and with_meaning or len(said) == 2 and not with_meaning, said


def test_help_from_the_shell():
    assert "usage: train.py" in command("train.py", "--help").stdout


# ---- mistakes -------------------------------------------------------------------------------------------------------


def mistaken(answer: tuple[int, str, str], script: str, *said: str):
    """Exit code 2, one line on standard error that names the command and the trouble."""
    code, _, error = answer
    assert code == 2, error
    assert len(error.strip().splitlines()) == 1 and error.startswith(f"{script}: "), error
    for word in said:
        assert word in error


@pytest.mark.parametrize(
    "flags, said",
    [
        (dict(model="./absent"), "absent: no such folder"),
        (dict(model="nobody/nothing"), "nobody/nothing: not a folder, and not a model on the hub"),
        (dict(model="nobody/nothing@v1"), "nobody/nothing@v1: not a folder, and not a model on the hub"),
        (dict(model="nobody/nothing@"), "nobody/nothing@: no revision after the @"),
        (dict(model="EMPTY"), "tokenizer.json"),
        (dict(preset="qwen9"), "--preset 'qwen9'"),
        (dict(preset="modular"), "--preset modular is not for --task countdown:4: leave --preset out"),
        (dict(preset="problems"), "--preset problems is not for --task countdown:4"),
        (dict(preset="countdown", task="BAD.jsonl"), "--preset countdown is not for --task BAD.jsonl"),
        (dict(token_objective="pass@3"), "pass@3 needs 1 <= k <= samples per prompt, which is 2"),
        (dict(temperature_objective="pass@2"), "pass@2 of 2 samples per prompt makes every advantage 0"),
        (dict(temperature_objective="best"), "'best'"),
        (dict(advantage="gae"), "--advantage 'gae'"),
        (dict(token_weight="odd"), "--token-weight 'odd' is none of: even, tau"),
        (dict(schedule="sometimes"), "schedule 'sometimes'"),
        (dict(tau_min=1.5, tau_max=0.1), "0 < tau_min < tau_max"),
        (dict(tau_min=0), "0 < tau_min < tau_max"),
        (dict(samples_per_prompt=1), "--samples-per-prompt is 1 and must be at least 2"),
        (dict(prompts_per_step=0), "--prompts-per-step is 0 and must be at least 1"),
        (dict(max_new_tokens=500), "context of 96"),
        (dict(max_prompt_tokens=2), "whose prompts have more than 2 tokens"),
        (dict(task="chess"), "'chess' is none of: countdown, modular, words, gsm8k"),
        (dict(task="countdown:99"), "2 to 6 numbers"),
        (dict(task="absent.jsonl"), "absent.jsonl: no such file"),
        (dict(task="BAD.jsonl"), "BAD.jsonl, line 2: not JSON"),
        (dict(template="poem"), "template 'poem' is none of"),
        (dict(template="chat"), "has no chat template"),
        (dict(policy="warm"), "'warm' is none of"),
        (dict(policy="-1"), "the temperature is -1.0; it must be from 0 (greedy) to 1,000,000"),
        (dict(policy="nan"), "temperature"),
        (dict(policy="1e300"), "to 1,000,000"),
        (dict(policy="0.00"), "--policy greedy makes all samples of a group the same"),
        (dict(policy="tampo:candidates=0"), "'candidates=0' is wrong; tampo takes positive numbers"),
        (dict(policy="tampo:candidates=0.5"), "candidates is 0.5; it must be from 1 to 1,000"),
        (dict(policy="ead:d_0=0"), "'d_0=0' is wrong"),
        (dict(policy="mixture:low=-1"), "'low=-1' is wrong"),
        (dict(policy="0.7", schedule="blocks:2"), "--policy 0.7 does not learn"),
        (dict(policy="tampo+min_p=0.1", schedule="temperature"), "TAMPO learns from the likelihoods"),
        (dict(policy="own+min_p=0.1", token_epochs=2), "once the model has moved: use --token-epochs 1 and no --kl"),
        (dict(policy="0.7+top_p=0.9", kl=0.1), "once the model has moved: use --token-epochs 1 and no --kl"),
        (dict(policy="tampo:momentum=1"), "momentum is 1; it must be at least 0 and below 1"),
        (dict(out="mine"), "mine contains samples.jsonl, which train.py did not write"),
        (
            dict(model="A_RUN", policy="sequence", temperature_entropy=0),
            "contains the temperature policy own, not sequence",
        ),
        (dict(model="A_RUN", tau_max=1.4), "a temperature policy with tau_max 1.5"),
        (dict(model="A_RUN", tau_min=0.2), "a temperature policy with tau_min 0.1"),
        (dict(max_grad_norm=0), "--max-grad-norm 0"),
        (dict(token_lr=-1), "--token-lr is -1.0"),
        (dict(device="abacus"), "abacus"),
        pytest.param(
            dict(device="cuda"), "cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has one")
        ),
        (dict(out=""), "--out is empty"),
        (dict(out="A_RUN"), "contains another run"),
        (dict(out="A_MODEL"), "contains another run or model"),
        (dict(out="A_FILE"), "A_FILE"),
        (dict(out="."), "which train.py did not write"),
        (dict(out="data", task="data/samples.jsonl"), "data contains samples.jsonl, which train.py did not write"),
        (dict(model="UNENDING"), "names no end-of-text token"),
        (dict(resume=None), "contains no checkpoint"),
    ],
)
def test_mistakes_of_train(flags, said, base, trained, tmp_path, here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "A_FILE").write_text("")
    (tmp_path / "A_RUN").symlink_to(trained[0])
    (tmp_path / "A_MODEL").symlink_to(base)
    (tmp_path / "BAD.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n{"problem": \n')
    (tmp_path / "data").mkdir()
    (tmp_path / "mine").mkdir()
    for name in ("samples.jsonl", "slurm-7.out"):  # what a user has there, and what a shell writes beside a run
        (tmp_path / "mine" / name).write_text("{}")
    (tmp_path / "data" / "samples.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n' * 9)
    shutil.copytree(base, tmp_path / "UNENDING")
    (tmp_path / "UNENDING" / "tokenizer_config.json").write_text("{}")
    raw = json.loads((base / "config.json").read_text())
    (tmp_path / "UNENDING" / "config.json").write_text(json.dumps(raw | {"eos_token_id": None}))
    there = sorted(tmp_path.rglob("*"))
    words = ["--resume"] if "resume" in flags else []
    flags = {name: value for name, value in flags.items() if name != "resume"}
    mistaken(
        here("train.py", *words, **SHORT | dict(model=base, task="countdown:4", out="run") | flags), "train.py", said
    )
    assert sorted(tmp_path.rglob("*")) == there, "nothing is left behind, and nothing gone"


def test_all_mistakes_are_said_at_once(here, tmp_path):
    code, _, error = here("train.py", tau_min=2, samples_per_prompt=1, advantage="gae", out=tmp_path / "run")
    assert code == 2 and all(word in error for word in ("--tau-min", "--samples-per-prompt", "--advantage"))


@pytest.mark.parametrize(
    "flags, said",
    [
        (dict(model="./absent"), "absent: no such folder"),
        (dict(benchmark="chess"), "'chess' is none of: countdown, modular, words, gsm8k"),
        (dict(benchmark="absent.jsonl"), "absent.jsonl: no such file"),
        (dict(policy="own"), "no temperature policy of its own"),
        (dict(policy="warm"), "'warm' is none of"),
        (dict(samples=0), "at least 1"),
        (dict(problems=-1), "at least 0"),
        (dict(max_new_tokens=-3), "max-new-tokens"),
        (dict(max_new_tokens=500), "context of 96"),
        (dict(template="poem"), "template 'poem' is none of"),
        (dict(out="absent/figures.json"), "absent/figures.json"),
        (dict(out="."), "is a folder"),
        (dict(rows=-1), "--rows"),
        pytest.param(
            dict(device="cuda"), "cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has one")
        ),
    ],
)
def test_mistakes_of_eval(flags, said, base, here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = dict(model=base, benchmark="countdown:4", problems=2, samples=1, max_new_tokens=3)
    mistaken(here("eval.py", **short | flags), "eval.py", said)


def test_a_run_is_evaluated_on_its_own_held_out_problems(trained, base, here, tmp_path):
    """A generated task's, or those of --eval-task; of an embedded model those of its task."""
    short = dict(problems=2, samples=1, max_new_tokens=3, policy="0.7")
    assert "| countdown:4, 0.7 |" in here("eval.py", model=trained[0], **short)[1]
    run = shutil.copytree(trained[0], tmp_path / "run")
    ran = json.loads((run / "run.json").read_text())
    problems = tmp_path / "held.jsonl"
    problems.write_text('{"problem": "1+1=", "answer": "2"}\n')
    (run / "run.json").write_text(json.dumps(ran | {"task": "trained_on.jsonl", "eval_task": str(problems)}))
    assert "| held, 0.7 |" in here("eval.py", model=run, **short)[1]
    (run / "run.json").write_text(json.dumps(ran | {"task": "trained_on.jsonl"}))
    for folder in (run, base):
        mistaken(
            here("eval.py", model=folder, **short),
            "eval.py",
            "no held-out problems of its own; name some by --benchmark",
        )
    (run / "run.json").write_text('{"task": 3}')
    mistaken(here("eval.py", model=run, **short), "eval.py", "run.json is damaged; name the problems by --benchmark")
    (run / "held_out.jsonl").write_text('{"problem": "1+1=", "answer": "2"}\n')
    (run / "run.json").write_text(json.dumps(ran | {"task": "trained_on.jsonl"}))
    assert "| held_out, 0.7 |" in here("eval.py", model=run, **short)[1], "what train.py has set aside of its file"
    for folder, task in (("models/countdown", "countdown"), ("models/modular", "modular")):
        assert f"| {task}, 0.7 |" in here("eval.py", model=ROOT / folder, **short)[1]


@pytest.mark.parametrize(
    "policy, named",
    [
        ("ead:d_0=1,tokens_per_unit=1,warm_tokens=0", "ead:d_0=1,tokens_per_unit=1,warm_tokens=0,training_step=3"),
        ("0.7", "0.7"),
        ("own+min_p=0.2", "own+min_p=0.2"),
        ("sequence", "sequence"),
    ],
)
def test_a_run_is_evaluated_as_it_was_trained(policy, named, base, here, tmp_path, monkeypatch):
    """Its prompt, and its policy as it ended: the same figures as the run's own table."""
    flags = SHORT | dict(template="raw", token_lr=1e-6, final_problems=12, eval_every=0)
    flags = {name: value for name, value in flags.items() if name != "temperature_entropy"}
    if policy[:3] in ("own", "seq"):
        flags |= dict(schedule="temperature", temperature_lr=0.1)
        flags = {name: value for name, value in flags.items() if name not in ("token_lr", "token_entropy")}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").write_text("what a shell writes beside a run")
    code, _, error = here("train.py", model=base, task="countdown:4", out=tmp_path / "run", policy=policy, **flags)
    assert code == 0, error
    asked, render = [], tasks.render
    monkeypatch.setattr(tasks, "render", lambda *of: asked.append(of[2].template) or render(*of))
    out, short = tmp_path / "figures.json", dict(problems=12, samples=2)  # as long as its completions were, too
    code, _, error = here("eval.py", model=tmp_path / "run", out=out, **short)
    assert code == 0 and set(asked) == {"raw"}, error
    after = json.loads((tmp_path / "run" / "after.json").read_text())
    results = json.loads(out.read_text())["results"]
    assert list(results) == [f"countdown:4, {named}", "countdown:4, greedy"]
    for name in ("temperature", "entropy", "tokens"):
        assert results[f"countdown:4, {named}"][name] == pytest.approx(after[policy][name])
    asked.clear()
    assert here("sample.py", model=tmp_path / "run", prompt="3,5,7=22:", max_new_tokens=3)[0] == 0 and asked == ["raw"]


@pytest.mark.parametrize(
    "flags, said",
    [
        (dict(model="./absent"), "absent: no such folder"),
        (dict(policy="own"), "no temperature policy of its own"),
        (dict(policy="warm"), "'warm' is none of"),
        (dict(policy="nan"), "temperature"),
        (dict(prompt="3," * 100, max_new_tokens=0), "exceed the model's context of 96"),
        (dict(max_new_tokens=-1), "at least one new token"),
        (dict(max_new_tokens=500), "context of 96"),
        (dict(template="poem"), "template 'poem' is none of"),
        (dict(prompt="", template="raw"), "--prompt is empty"),
        pytest.param(
            dict(device="cuda"), "cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has one")
        ),
    ],
)
def test_mistakes_of_sample(flags, said, base, here):
    short = dict(model=base, prompt="3,5,7=22:", max_new_tokens=3)
    mistaken(here("sample.py", **short | flags), "sample.py", said)


@pytest.mark.parametrize(
    "flags, said",
    [
        (dict(out=""), "--out is empty"),
        (dict(task="gsm8k"), "--task 'gsm8k' is none of: countdown, countdown:2 to countdown:5, modular"),
        (dict(task="countdown:06"), "--task 'countdown:06' is none of"),
        (dict(task="countdown:x"), "--task 'countdown:x' is none of"),
        (dict(task="modular:4"), "--task 'modular:4' is none of"),
        (dict(slips=2), "--slips"),
        (dict(steps=0), "--steps"),
    ],
)
def test_mistakes_of_pretrain_leave_nothing_behind(flags, said, here, tmp_path):
    mistaken(here("pretrain.py", **dict(out=tmp_path / "base") | flags), "pretrain.py", said)
    assert not (tmp_path / "base").exists()


def test_mistakes_of_plot(here, tmp_path):
    mistaken(here("plot.py", tmp_path), "plot.py", "metrics.jsonl: missing")
    mistaken(here("plot.py", tmp_path / "absent"), "plot.py", "absent")
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "reward": 1.0}\n')
    (tmp_path / "after.json").write_text("[]")
    mistaken(here("plot.py", tmp_path), "plot.py", "after.json: not a file that a run or eval.py has written")
    mistaken(here("plot.py", tmp_path, frontier=tmp_path / "none.json"), "plot.py", "none.json")


@pytest.mark.parametrize("words", [["--steps", "many"], ["--nonsense"], ["--resume", "yes"]])
def test_flags_that_do_not_exist_or_do_not_parse(words, here):
    mistaken(here("train.py", *words), "train.py", "--help lists the flags")


def test_a_mistake_from_the_shell(tmp_path):
    """The same through a real shell: nothing but the one line."""
    line = [
        sys.executable,
        str(ROOT / "train.py"),
        "--model",
        "./absent",
        "--task",
        "countdown:4",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT)
    mistaken((done.returncode, done.stdout, done.stderr), "train.py", "absent: no such folder")


# ---- the configuration ----------------------------------------------------------------------------------------------


def test_values_come_from_the_defaults_then_the_preset_then_the_flags():
    assert config.parse([]) == config.Config()
    preset = config.parse(["--preset", "qwen3-1.7b-math"])
    assert preset.model == "Qwen/Qwen3-1.7B" and preset.task == "math" and preset.eval_task == "math500"
    changed = config.parse(["--preset", "qwen3-1.7b-math", "--task", "gsm8k", "--token-lr", "5e-6"])
    of_task = {"task": "gsm8k", "eval_task": "", "out": "runs/gsm8k"}  # not MATH's
    assert changed == config.Config(**vars(preset) | of_task | {"token_lr": 5e-6})
    maths = config.parse(["--model", "some", "--task", "some/problems.jsonl", "--max-prompt-tokens", "99"])
    assert (maths.max_new_tokens, maths.max_prompt_tokens, maths.token_lr) == (0, 99, 1e-6)
    assert maths.out == "runs/problems"
    assert (maths.preset, maths.tau_min, maths.steps) == ("problems", 0.1, 200)
    countdown = config.parse(["--preset", "countdown"])
    assert countdown == config.parse(["--task", "countdown"]) != config.Config()
    assert config.parse(["--preset", "qwen3-1.7b-math", "--task", "countdown:4"]).model == preset.model
    four = config.parse(["--task", "countdown:4", "--model", "some"])
    assert four == config.Config(**vars(countdown) | dict(task="countdown:4", model="some", out="runs/countdown4"))


@pytest.mark.parametrize(
    "words, said",
    [
        (
            "--task countdown:4",
            "--task countdown:4 needs a --model: the embedded models know only modular and countdown",
        ),
        ("--task gsm8k", "--task gsm8k needs a --model"),
        ("--task some/problems.jsonl", "--task some/problems.jsonl needs a --model"),
        ("--model some", "--model some needs a --task, which names the problems"),
        ("--preset problems", "--preset problems is not for --task modular"),
    ],
)
def test_a_model_is_not_asked_what_it_does_not_know(words, said):
    with pytest.raises(ValueError, match=said):
        config.parse(words.split())


@pytest.mark.parametrize("preset", config.PRESETS)
def test_every_preset_is_valid(preset, tmp_path):
    whose = ["--task", "gsm8k", "--model", "some"] if preset == "problems" else []
    c = config.parse(["--preset", preset, *whose, "--out", str(tmp_path / "run")])
    checks.validate(c)
    for task in filter(None, (c.task, c.eval_task)):
        assert task.partition(":")[0] in tasks.GENERATED or task in tasks.HUB


def test_the_settings_of_either_side_reach_its_step():
    c = config.Config(
        token_epochs=3, temperature_epochs=5, clip_low=0.1, clip_high=0.3, token_entropy=0.01, temperature_entropy=0.02, kl=0.04,
        max_grad_norm=0.5, micro_batch_tokens=77, token_weight="tau",
    )  # fmt: skip
    vocabulary = tokenizer.load(ROOT / "models/countdown")
    made = train.Run(c, vocabulary, [], [], "", None, None, None, None, {}, 0, 1)
    assert made.token_settings == rl.StepSettings(3, 0.1, 0.3, 0.01, 0.04, 0.5, by_temperature=True)
    assert made.temperature_settings == rl.StepSettings(5, 0.1, 0.3, 0.02, 0.0, 0.5)
    assert made.gradient.micro_batch_tokens == 77


def test_every_flag_has_a_meaning():
    assert all(f.metadata["help"].strip() and f.metadata["group"] in config.GROUPS for f in config.FLAGS)
    assert [f.metadata["group"] for f in config.FLAGS].count("basic") == 10


@pytest.mark.skipif(not (ROOT / "models/countdown").is_dir(), reason="needs the shipped model")
def test_sampling_stops_at_the_end_of_the_context_by_default(here):
    """As the README calls it: the small model's context is shorter than the default length."""
    code, printed, error = here("sample.py", model=ROOT / "models/countdown", prompt="3,5,7=22:")
    assert code == 0 and "tokens, mean temperature" in printed, error
