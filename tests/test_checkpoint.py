"""checkpoint.py, and the loop of train.py around it: a killed and resumed run is the unbroken one, bit by bit."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import baselines
import config
import eval as evaluation
import model
import rl
import tasks
import temperature_head
import tokenizer
import train
from display import log
from trainer import checkpoint, checks
from trainer import run as run_module

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ("model.safetensors", "temperature_head.safetensors")


def lottery(problems, texts, finished, own=None) -> list[float]:
    """A reward that a random model sometimes earns: a third of the finished texts are right."""
    return [float(whole and zlib.crc32(text.encode()) % 3 == 0) for text, whole in zip(texts, finished)]


def write_base(folder: Path) -> Path:
    """A folder in Qwen3 format: random weights, one token a byte, many of which end a completion; and 40 problems."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    transformer = model.Transformer(
        model.Config(
            vocab_size=257, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_head=8, d_mlp=24,
            max_length=64, qk_norm=True, tied=True,
        )
    )  # fmt: skip
    with torch.no_grad():
        transformer.embed.weight.mul_(0.3)
    transformer.original_config = {"eos_token_id": [256, *range(0, 256, 6)]}
    model.save(transformer, folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer.byte_level_file(["<|endoftext|>"])))
    rows = [{"problem": f"{'9' * (i % 7)}{i}?", "answer": str(i)} for i in range(40)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """train.train leaves signal handlers and tables behind; here it leaves nothing, and draws no picture."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(tasks, "rewards", lottery)
    monkeypatch.setattr(log.Log, "report", lambda self: "")
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def words(base: Path, out: Path, *more: str) -> list[str]:
    flags = dict(
        model=base, task=base / "problems.jsonl", template="raw", out=out, steps=6, prompts_per_step=4,
        samples_per_prompt=4, max_new_tokens=6, eval_every=3, eval_problems=2, final_problems=2, eval_samples=2,
        save_every=2, print_every=2, device="cpu", token_lr=1e-3, temperature_lr=1e-3,
    )  # fmt: skip
    settings = dict(zip(more, more[1:]))  # flags that would do nothing are refused
    policy = settings.get("--policy", "own").partition("+")[0].partition(":")[0]
    if settings.get("--schedule") == "temperature":
        flags.pop("token_lr")
    if settings.get("--schedule") == "tokens" or policy not in baselines.LEARNED or policy == "tampo":
        flags.pop("temperature_lr")
    return [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))] + list(more)


def go(base: Path, out: Path, *more: str) -> Path:
    """A run, in this process."""
    c = config.parse(words(base, out, *more))
    checks.validate(c)
    train.train(c, train.prepare(c))
    return out


def metrics_of(run: Path) -> list[dict]:
    """All that metrics.jsonl says, but for how long it took."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("seconds/")} for line in lines]


def assert_same_state(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same_state(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same_state(x, y)
    else:
        assert a == b


def state_file(run: Path) -> dict:
    return torch.load(run / checkpoint.STATE, weights_only=True)


def assert_same_run(a: Path, b: Path):
    assert metrics_of(a) == metrics_of(b)
    assert (a / "samples.jsonl").read_bytes() == (b / "samples.jsonl").read_bytes()
    for name in WEIGHTS:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    first, second = state_file(a), state_file(b)
    assert first["step"] == second["step"]
    assert_same_state(first["optimizers"], second["optimizers"])
    for when in ("before", "after"):
        assert (a / f"{when}.json").read_bytes() == (b / f"{when}.json").read_bytes()


@pytest.fixture(scope="module")
def unbroken(base, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "rewards", lottery)
        patch.setattr(log.Log, "report", lambda self: "")
        return go(base, tmp_path_factory.mktemp("unbroken") / "run")


# ---- a run learns something, and the same seed is the same run ------------------------------------------------------


def test_a_run_moves_both_sides(base, unbroken):
    metrics = metrics_of(unbroken)
    assert [row["step"] for row in metrics] == list(range(6))
    assert all(0 < row["reward"] < 1 and 0 < row["truncated"] < 1 for row in metrics)
    assert all(row[f"{side}/gradient_norm"] > 0 for row in metrics for side in ("token", "temperature"))
    assert [step for step, row in enumerate(metrics) if any(key.startswith("eval/") for key in row)] == [2]
    before, after = load_file(base / WEIGHTS[0]), load_file(unbroken / WEIGHTS[0])
    assert all(after[name].dtype == torch.float32 and not torch.equal(before[name], after[name]) for name in before)


def test_first_step_ratios_are_one_in_the_loop(unbroken):
    """The token step comes first, on the rollout as drawn; its one epoch starts from what drew it."""
    for row in metrics_of(unbroken):
        assert abs(row["token/kl"]) < 1e-7 and row["token/clipped"] == 0


def test_same_seed_same_run_other_seed_other_run(base, unbroken, tmp_path):
    torch.manual_seed(99)  # whatever the process did before
    torch.rand(3)
    assert_same_run(unbroken, go(base, tmp_path / "again"))
    other = go(base, tmp_path / "other", "--seed", "1")
    assert metrics_of(other)[0] != metrics_of(unbroken)[0]
    assert (other / WEIGHTS[0]).read_bytes() != (unbroken / WEIGHTS[0]).read_bytes()


@pytest.mark.parametrize("every", ["0", "1"])
def test_looking_does_not_change_the_run(base, unbroken, tmp_path, every):
    """Evaluations, checkpoints and printed completions, or none of them: the same weights."""
    run = go(
        base,
        tmp_path / "run",
        "--eval-every",
        every,
        "--print-every",
        every,
        "--save-every",
        "5",
        "--eval-samples",
        "3",
    )
    for name in WEIGHTS:
        assert (run / name).read_bytes() == (unbroken / name).read_bytes()
    strip = [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in metrics_of(unbroken)]
    assert [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in metrics_of(run)] == strip


def test_rollouts_in_parts_keep_their_size(base, tmp_path):
    """--rollout-rows is about memory: a step still asks P problems and learns from P x G completions."""
    asked = []
    run = go(base, tmp_path / "run", "--rollout-rows", "5", "--steps", "2")
    asked = metrics_of(run)
    assert len(asked) == 2 and all(row["token/gradient_norm"] > 0 for row in asked)


# ---- kill and resume ------------------------------------------------------------------------------------------------


def test_a_killed_and_resumed_run_equals_the_unbroken_one(base, unbroken, tmp_path):
    """A real process, ended without warning in its fifth step, after the checkpoint of the fourth."""
    run = tmp_path / "run"
    code = (
        f"import os, sys; sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(ROOT)!r}]\n"
        "import torch; torch.set_num_threads(1)\n"
        "import rl, tasks, train, test_checkpoint\n"
        "tasks.rewards = test_checkpoint.lottery\n"
        "step, done = rl.temperature_step, []\n"
        "def dying(*arguments):\n"
        "    done.append(1)\n"
        "    if len(done) == 5: os._exit(9)\n"
        "    return step(*arguments)\n"
        "rl.temperature_step = dying\n"
        "train.main()"
    )
    ended = subprocess.run([sys.executable, "-c", code, *words(base, run)], capture_output=True, text=True)
    assert ended.returncode == 9, ended.stderr
    assert len(metrics_of(run)) == 4 and not (run / "after.json").exists()
    assert [folder.name for folder in checkpoint.whole_checkpoints(run)] == ["step-000003", "step-000004"]
    assert_same_run(unbroken, go(base, run, "--resume"))


class Killed(BaseException):
    """Nothing in the code catches this: what is on disk is what a kill at this place leaves."""


def dying(function, at_call: int):
    calls = []

    def call(*arguments, **named):
        calls.append(1)
        if len(calls) == at_call:
            raise Killed
        return function(*arguments, **named)

    return call


@pytest.mark.parametrize(
    "owner, name, at_call, left",
    [
        (rl, "token_step", 6, ["step-000003", "step-000004"]),  # metrics of a fifth step are logged, and undone
        (model, "save", 2, ["step-000002"]),  # nothing of the second checkpoint is written
        (torch, "save", 2, ["step-000002"]),  # half of it is
        (os, "replace", None, ["step-000002", "step-000003"]),  # all of it is, under its provisional name
        (
            checkpoint,
            "publish",
            2,
            ["step-000002", "step-000003"],
        ),  # it is whole, and the run's folder shows the old one
        (checkpoint, "drop_old", 3, ["step-000002", "step-000003", "step-000004"]),  # the oldest is not yet dropped
    ],
)
def test_a_kill_in_any_place_leaves_a_run_that_resumes(
    base, unbroken, tmp_path, monkeypatch, owner, name, at_call, left
):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        if name == "replace":
            really = os.replace

            def replace(source, target):
                if Path(target).name == "step-000004":
                    raise Killed
                really(source, target)

            patch.setattr(os, "replace", replace)
        else:
            patch.setattr(owner, name, dying(getattr(owner, name), at_call))
        with pytest.raises(Killed):
            go(base, run)
    assert [folder.name for folder in checkpoint.whole_checkpoints(run)] == left
    for folder in checkpoint.whole_checkpoints(run):
        model.load(folder), temperature_head.load(folder), tokenizer.load(folder), state_file(folder)
    assert_same_run(unbroken, go(base, run, "--resume"))


def test_a_finished_run_goes_on_with_more_steps(base, unbroken, tmp_path):
    run = go(base, tmp_path / "run", "--steps", "4")
    go(base, run, "--resume", "--steps", "6")
    assert metrics_of(run) == metrics_of(unbroken)
    for name in WEIGHTS:
        assert (run / name).read_bytes() == (unbroken / name).read_bytes()


@pytest.mark.parametrize(
    "flags",
    [
        ("--policy", "ead", "--max-new-tokens", "16"), ("--kl", "0.1", "--token-entropy", "0.01"), ("--policy", "0.7"),
        ("--policy", "sequence"), ("--policy", "tampo:sharpness=0.1,momentum=0.5"),
    ],
)  # fmt: skip
def test_other_runs_resume_exactly_too(base, tmp_path, monkeypatch, flags):
    """EAD knows the training step, TAMPO its categorical; a KL penalty is to the initial model, not to the resumed one."""
    whole, run = go(base, tmp_path / "whole", "--steps", "4", *flags), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(rl, "token_step", dying(rl.token_step, 4))
        with pytest.raises(Killed):
            go(base, run, "--steps", "4", *flags)
    go(base, run, "--steps", "4", "--resume", *flags)
    assert metrics_of(run) == metrics_of(whole)
    assert (run / WEIGHTS[0]).read_bytes() == (whole / WEIGHTS[0]).read_bytes()
    learns = "--policy" not in flags or baselines.learns(flags[1])
    assert (run / WEIGHTS[1]).exists() == learns
    if learns:
        assert (run / WEIGHTS[1]).read_bytes() == (whole / WEIGHTS[1]).read_bytes()
        assert (run / WEIGHTS[1]).read_bytes() != (run / "checkpoints" / "step-000003" / WEIGHTS[1]).read_bytes()


def test_evaluations_on_the_way_are_at_tampos_mean_also_where_only_tokens_learn(base, tmp_path):
    run = go(base, tmp_path / "run", "--policy", "tampo", "--schedule", "tokens", "--eval-every", "1")
    taus = [row["eval/temperature"] for row in metrics_of(run) if "eval/temperature" in row]
    drawn = {round(row["tau/mean"], 4) for row in metrics_of(run)}
    assert len(taus) > 2 and len(drawn) > 1 and taus == pytest.approx([0.8] * len(taus), abs=1e-4)


def test_states_are_kept_only_where_the_temperature_learns_from_them(base, tmp_path, monkeypatch):
    kept, really = [], train.Run.sample

    def noted(*arguments, keep_reads):
        kept.append(keep_reads)
        return really(*arguments, keep_reads=keep_reads)

    monkeypatch.setattr(train.Run, "sample", noted)
    go(base, tmp_path / "run", "--schedule", "blocks:1", "--eval-every", "0")
    assert kept == [False, True] * 3


def test_the_end_of_a_run_that_goes_on_is_not_shown_as_its_own(base, unbroken, tmp_path, monkeypatch):
    run = shutil.copytree(unbroken, tmp_path / "run")
    shown = ("after.json", "table.md", "report.html", "run.png", "heat_map.png")
    for name in shown:
        (run / name).touch()
    monkeypatch.setattr(log.Log, "report", lambda self: pytest.fail("the run did not get there"))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", dying(checkpoint.save, 1))
        with pytest.raises(Killed):
            go(base, run, "--resume", "--steps", "8")
    assert not [name for name in shown if (run / name).exists()]


def test_a_log_that_lost_its_end_is_cut_to_whole_lines(base, unbroken, tmp_path):
    """What is not yet on the disk is lost with the power; a checkpoint is there first."""
    run = shutil.copytree(unbroken, tmp_path / "run")
    rows = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(rows[:-1]) + rows[-1][:9])
    go(base, run, "--resume", "--steps", "7")
    assert [row["step"] for row in metrics_of(run)] == [*range(len(rows) - 1), 6]


def test_a_head_that_is_gone_is_no_new_head(base, unbroken, tmp_path):
    run = shutil.copytree(unbroken, tmp_path / "run")
    newest = checkpoint.whole_checkpoints(run)[-1]
    (newest / "temperature_head.safetensors").unlink()
    with pytest.raises(ValueError, match=f"{newest}.*missing; remove"):
        go(base, run, "--resume", "--steps", "7")


def test_a_copy_of_a_checkpoint_beside_it_is_none(base, unbroken, tmp_path):
    run = shutil.copytree(unbroken, tmp_path / "run")
    newest = checkpoint.whole_checkpoints(run)[-1]
    shutil.copytree(newest, newest.with_name(newest.name + ".bak"))
    go(base, run, "--resume", "--steps", "7")
    assert newest.with_name(newest.name + ".bak").is_dir() and state_file(run)["step"] == 7


def test_a_file_of_a_run_that_is_edited_in_place_leaves_the_checkpoint_as_it_was(base, tmp_path):
    run = go(base, tmp_path / "run", "--steps", "2")
    newest = checkpoint.whole_checkpoints(run)[-1]
    for file in newest.glob("*.json"):
        before = file.read_bytes()
        with open(run / file.name, "a") as opened:
            opened.write(" ")
        assert file.read_bytes() == before, file.name
    weights = "model.safetensors"
    assert (run / weights).stat().st_ino == (newest / weights).stat().st_ino, "what is large is there once"


def test_a_run_that_was_moved_resumes_where_it_lies(unbroken, tmp_path, monkeypatch):
    shutil.copytree(unbroken, tmp_path / config.Config.out)
    monkeypatch.chdir(tmp_path)
    assert config.parse(["--resume"]).out == config.Config.out


def test_ead_is_told_the_training_step(base, tmp_path, monkeypatch):
    told, really = [], baselines.EAD.act
    monkeypatch.setattr(
        baselines.EAD, "act", lambda self, *a, **k: told.append(self.training_step) or really(self, *a, **k)
    )
    go(base, tmp_path / "run", "--policy", "ead", "--steps", "3", "--eval-every", "0")
    assert sorted(set(told)) == [0, 1, 2, 3] and told == sorted(told), "three steps, and the evaluation after them"


def test_evaluations_on_the_way_are_spread_over_all_held_out_problems(base, tmp_path, monkeypatch):
    asked, really = [], evaluation.evaluate
    monkeypatch.setattr(
        evaluation, "evaluate", lambda *of, **how: asked.append([p.problem for p in of[3]]) or really(*of, **how)
    )
    go(base, tmp_path / "run", "--final-problems", "5", "--eval-problems", "3")
    everything, *_ = asked
    assert len(everything) == 5 and [len(some) for some in asked].count(3) == 1
    (some,) = (some for some in asked if len(some) == 3)
    assert some == [everything[0], everything[1], everything[3]], "not the first three, and not all but the end"


def test_the_longest_completion_is_enough_for_training_and_for_held_out_problems(tmp_path):
    words = ["--task", "countdown", "--eval-task", "countdown:4", "--out", str(tmp_path / "run"), "--device", "cpu"]
    if not Path("models/countdown").is_dir():
        pytest.skip("needs the shipped model")
    four = tasks.completion_length(tasks.load("countdown:4", "test", 1)[0])
    assert four > tasks.completion_length(tasks.load("countdown", "test", 1)[0])
    assert train.prepare(config.parse(words)).max_new_tokens == four
    assert train.prepare(config.parse([*words, "--max-new-tokens", "9"])).max_new_tokens == 9


@pytest.mark.parametrize("flags", [(), ("--policy", "ead", "--max-new-tokens", "16")])
def test_a_kill_in_the_last_evaluation_is_made_good(base, tmp_path, monkeypatch, flags):
    whole, run = go(base, tmp_path / "whole", "--steps", "2", *flags), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(log.Log, "write", dying(log.Log.write, 2))  # before.json is the first
        with pytest.raises(Killed):
            go(base, run, "--steps", "2", *flags)
    assert not (run / "after.json").exists()
    go(base, run, "--steps", "2", "--resume", *flags)
    assert (run / "after.json").read_bytes() == (whole / "after.json").read_bytes()


def test_the_first_ctrl_c_ends_the_step_saves_and_resumes(base, unbroken, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return really(*arguments)

    def unhandled(number, frame):
        raise Killed

    signal.signal(signal.SIGINT, unhandled)
    really = log.measure
    with monkeypatch.context() as patch:
        patch.setattr(log, "measure", lambda *a: interrupted(*a) if len(metrics_or_none(run)) == 2 else really(*a))
        go(base, run)
    assert len(metrics_of(run)) == 3 and not (run / "after.json").exists()
    assert checkpoint.whole_checkpoints(run)[-1].name == "step-000003"
    assert_same_run(unbroken, go(base, run, "--resume"))


def metrics_or_none(run: Path) -> list[dict]:
    return metrics_of(run) if (run / "metrics.jsonl").exists() else []


def test_a_run_killed_before_its_first_checkpoint_can_be_started_again(base, unbroken, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(rl, "token_step", dying(rl.token_step, 2))
        with pytest.raises(Killed):
            go(base, run)
    assert len(metrics_of(run)) == 1 and not checkpoint.whole_checkpoints(run)
    assert_same_run(unbroken, go(base, run))
    for name in (
        "held_out.jsonl",
        "before.json",
        "metrics.jsonl",
    ):  # another task's, which this run would not write over
        (tmp_path / name).touch()
    checkpoint.begin(tmp_path, model.load(base), keep=2)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


# ---- schedules through the real loop: the fixed side stays bit-identical, its optimizer included --------------------


@pytest.mark.parametrize(
    "flags, moves",
    [
        (["--schedule", "every"], ["both"] * 4),
        (["--schedule", "blocks:2"], ["token", "token", "temperature", "temperature"]),
        (["--schedule", "tokens"], ["token"] * 4),
        (["--schedule", "temperature"], ["temperature"] * 4),
        (["--schedule", "tokens", "--temperature-first", "2"], ["temperature", "temperature", "token", "token"]),
    ],
)
def test_the_side_that_is_fixed_stays_bit_identical(base, tmp_path, monkeypatch, flags, moves):
    states = []
    transformer, seen = model.load(base), []

    def snapshot(run, step, transformer, head, vocabulary, optimizers, *_):
        sides = {"token": transformer, "temperature": head}
        states.append(copy.deepcopy({n: (s.state_dict(), optimizers[n].state_dict()) for n, s in sides.items()}))

    def generate(*arguments, **named):
        if not seen:  # before the first step
            seen.append(arguments)
        return really(*arguments, **named)

    really = run_module.generate
    monkeypatch.setattr(run_module, "generate", generate)
    monkeypatch.setattr(checkpoint, "save", snapshot)
    go(base, tmp_path / "run", "--save-every", "1", "--steps", "4", "--eval-every", "0", *flags)
    torch.manual_seed(0)
    empty = torch.optim.AdamW([torch.zeros(1)]).state_dict()["state"]
    first = {
        "token": transformer.state_dict(),
        "temperature": temperature_head.TemperatureHead(16, 0.1, 1.5, concentration=80.0).state_dict(),
    }
    for step, (moving, after) in enumerate(zip(moves, states, strict=True)):
        for side in ("token", "temperature"):
            module, optimizer = after[side]
            before_module = states[step - 1][side][0] if step else first[side]
            before_optimizer = states[step - 1][side][1]["state"] if step else empty
            if moving in (side, "both"):
                assert any(not torch.equal(module[name], before_module[name]) for name in module)
                assert optimizer["state"]
            else:
                assert_same_state(dict(module), dict(before_module))
                assert_same_state(optimizer["state"], before_optimizer)


def test_truncated_completions_earn_nothing_and_stay_in_their_group(base, tmp_path, monkeypatch):
    """Every text would be right; those that were cut earn 0, count in the mean, and are learned from."""
    monkeypatch.undo()
    monkeypatch.setattr(log.Log, "report", lambda self: "")
    monkeypatch.setattr(tasks.verify, "rewards", lambda texts, golds, problems: [1.0] * len(texts))
    groups, steps = [], []
    advantages, token_step = rl.advantages, rl.token_step
    monkeypatch.setattr(rl, "advantages", lambda rewards, kind: groups.append(rewards) or advantages(rewards, kind))
    monkeypatch.setattr(rl, "token_step", lambda *a: steps.append(a) or token_step(*a))
    go(base, tmp_path / "run", "--steps", "1", "--schedule", "tokens")
    (rewards, *_), ((_, _, rollout, advantage, *_),) = groups, steps
    assert rewards.shape == (4, 4) and 0 < rewards.mean() < 1
    assert torch.equal(rewards.flatten(), rollout.finished.float())
    cut = ~rollout.finished
    assert (advantage[cut] <= 0).all() and (advantage[cut] < 0).any() and (rollout.mask[cut].sum(1) == 6).all()


# ---- the folder -----------------------------------------------------------------------------------------------------


def test_the_folder_shows_the_last_checkpoint_and_two_are_kept_beside_the_best(unbroken):
    kept = checkpoint.whole_checkpoints(unbroken)
    assert [folder.name for folder in kept] == ["step-000003", "step-000004", "step-000006"], "evaluated after step 3"
    for file in kept[-1].iterdir():
        assert (unbroken / file.name).read_bytes() == file.read_bytes(), file.name
    assert [file.name for file in unbroken.rglob(".*")] == [checkpoint.LOCK], "nothing provisional is left"
    assert state_file(unbroken)["step"] == 6
    assert json.loads((unbroken / checkpoint.CONFIG).read_text())["samples_per_prompt"] == 4


def test_a_run_keeps_what_ends_a_completion(base, tmp_path):
    """Where generation_config.json alone names the end-of-text ids, the run's folder and a resumed run still know them."""
    shutil.copytree(base, tmp_path / "base")
    raw = json.loads((tmp_path / "base" / "config.json").read_text())
    ends = raw.pop("eos_token_id")
    (tmp_path / "base" / "config.json").write_text(json.dumps(raw))
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    assert tokenizer.load(tmp_path / "base").eos_ids == set(ends)
    run = go(tmp_path / "base", tmp_path / "run", "--steps", "1")
    assert tokenizer.load(run).eos_ids == set(ends)


def test_a_run_with_other_settings_is_not_resumed(base, unbroken, tmp_path):
    for flags, message in [
        (["--seed", "5"], "seed was 0 and is 5"),
        (["--tau-max", "1.4"], "tau_max was 1.5 and is 1.4"),
    ]:
        with pytest.raises(ValueError, match=message):
            go(base, unbroken, "--resume", *flags)
    with pytest.raises(ValueError, match="contains another run"):
        go(base, unbroken)
    with pytest.raises(ValueError, match="no checkpoint"):
        go(base, tmp_path / "empty", "--resume")


def test_a_run_from_before_a_setting_was_there_resumes(unbroken, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    file = checkpoint.whole_checkpoints(run)[-1] / checkpoint.CONFIG
    older = json.loads(file.read_text())
    assert older.pop("token_weight") == "even"
    file.write_text(json.dumps(older))
    c = config.parse(["--out", str(run), "--resume"])
    defaults = config.Config().settings()
    checkpoint.check_same(run, c.settings(), defaults)
    with pytest.raises(ValueError, match="seed was 0 and is 5"):
        checkpoint.check_same(run, c.settings() | {"seed": 5}, defaults)
    with pytest.raises(ValueError, match="token_weight was 'even' and is 'tau'"):
        checkpoint.check_same(run, c.settings() | {"token_weight": "tau"}, defaults)


def test_a_configuration_of_other_types_is_named(base, unbroken, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    file = checkpoint.whole_checkpoints(run)[-1] / checkpoint.CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tau_max": "hot"}))
    with pytest.raises(ValueError, match="tau_max is 'hot' in its run.json; it must be of type float"):
        config.parse(["--out", str(run), "--resume"])


# ---- order of problems, and the generator of a step -----------------------------------------------------------------


@pytest.mark.parametrize("problems, per_step", [(10, 3), (7, 7), (5, 8), (64, 16), (1, 1), (3, 10)])
def test_every_problem_is_asked_once_an_epoch_in_a_new_order(problems, per_step):
    steps = [checkpoint.batch_indices(problems, per_step, step, seed=0) for step in range(3 * problems)]
    assert all(len(step) == per_step for step in steps)
    stream = [index for step in steps for index in step]
    epochs = [stream[start : start + problems] for start in range(0, len(stream), problems)]
    assert all(sorted(epoch) == list(range(problems)) for epoch in epochs)
    assert problems < 5 or len({tuple(epoch) for epoch in epochs}) > len(epochs) // 2
    other = [
        index for step in range(len(steps)) for index in checkpoint.batch_indices(problems, per_step, step, seed=1)
    ]
    assert problems < 5 or other != stream


def test_each_step_and_seed_has_its_own_random_state():
    first = {
        (seed, step): tuple(torch.rand(4, generator=checkpoint.random_state(seed, step)).tolist())
        for seed in range(5) for step in range(50)
    }  # fmt: skip
    assert len(set(first.values())) == 250
    assert first[3, 7] == tuple(torch.rand(4, generator=checkpoint.random_state(3, 7)).tolist())
