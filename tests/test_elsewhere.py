"""elsewhere.py, and all commands on the device that it pretends: no tensor meets one of another device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from elsewhere import Elsewhere, Mode
from test_checkpoint import words, write_base

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def python(code: str, *lines: list) -> subprocess.CompletedProcess:
    """`code`, and then the command lines, in a process that believes in a CUDA device."""
    lines = [[str(word) for word in line] for line in lines]
    code = f"import elsewhere, torch; elsewhere.pretend(); {code}; [elsewhere.command(*line) for line in {lines}]"
    environment = os.environ | {"PYTHONPATH": str(HERE), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=HERE.parent
    )


def test_a_tensor_there_does_not_meet_one_that_is_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    here, there = torch.arange(3.0), Elsewhere(torch.arange(3.0))
    assert there.is_cuda and there.device.type == "cuda" and (there + there).tolist() == [0, 2, 4]
    assert (there * torch.tensor(2.0)).tolist() == [0, 2, 4] and there[torch.tensor([2, 0])].tolist() == [2, 0]
    weights = Elsewhere(torch.ones(2)).requires_grad_()
    weights.grad, optimizer = Elsewhere(torch.ones(2)), torch.optim.AdamW([weights], fused=True)
    with Mode():
        optimizer.step()
    optimizer.state[weights]["step"] = torch.tensor(1.0)  # as a checkpoint holds it
    mistakes = [
        lambda: there + here,
        lambda: torch.where(there > 1, here, there),
        lambda: here[there.long()],
        lambda: there.index_put_((torch.tensor([0, 1, 2]),), here),
        lambda: there.index_select(0, torch.tensor(1)),
        lambda: torch.cat((there, here)),
        optimizer.step,
    ]
    for mistake in mistakes:
        with pytest.raises(RuntimeError, match="are on cuda"):
            mistake()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert type(there.cpu()) is torch.Tensor and there.cpu().equal(here)
    view = there[1:]
    view.add_(1)
    assert there.tolist() == [0, 2, 3], "a view is of the same numbers"


def test_every_command_runs_where_it_is_told(base, tmp_path):
    """Train both sides with all that is optional, resume, another policy; evaluate; sample.  And nothing of it on the CPU."""
    run, extra = tmp_path / "run", "--kl 0.1 --token-entropy 0.01 --temperature-entropy 0.01 --checkpointing"
    more = ["--device", "cuda", "--steps", "1", "--save-every", "1", "--max-new-tokens", "20"]
    pass_at_2 = ["--temperature-objective", "pass@2", "--token-weight", "tau"]
    there = "import model; made = model.load; model.load = lambda *given: {True: made(*given)}[made(*given).embed.weight.is_cuda]"
    done = python(
        f"from display import log; log.Log.report = lambda self: ''; {there}",  # pictures are drawn on the CPU, and slowly
        ["train.py", *words(base, run), *more, *extra.split(), *pass_at_2],
        ["train.py", "--resume", "--out", run, "--steps", "2"],
        ["train.py", *words(base, tmp_path / "tampo", "--policy", "tampo"), *more],
        ["eval.py", "--model", run, "--benchmark", base / "problems.jsonl", "--template", "raw", "--problems", "3", "--samples", "2",
            "--max-new-tokens", "4", "--policy", "own", "edt", "ead", "greedy", "--device", "cuda"],
        ["sample.py", "--model", run, "--prompt", "9?", "--template", "raw", "--max-new-tokens", "4", "--device", "cuda"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "problems, edt" in done.stdout and "mean temperature" in done.stdout and (run / "after.json").exists()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "mistake",
    [
        "import rl; made = rl.advantages; rl.advantages = lambda *given: made(*given).cpu()",
        "from trainer import checkpoint; made = checkpoint.random_state; checkpoint.random_state = lambda seed, step, *_: made(seed, step)",
    ],
)
def test_a_tensor_or_a_generator_of_the_wrong_device_ends_the_run(base, tmp_path, mistake):
    done = python(mistake, ["train.py", *words(base, tmp_path / "run"), "--device", "cuda", "--token-entropy", "0.01"])
    said = "are on cuda, and" if "rl" in mistake else "the generator is of another device"
    assert done.returncode and said in done.stderr, done.stderr
