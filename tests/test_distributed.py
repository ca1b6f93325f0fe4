"""distributed.py: two processes (gloo, on the CPU) take the step of one; and whole runs under torchrun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import test_checkpoint
import torch
from safetensors.torch import load_file
from test_checkpoint import metrics_of, state_file, words

import checkpoint
import config
import distributed
import model
import rl
import sample
import temperature_head

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
base, in_process = test_checkpoint.base, test_checkpoint.in_process  # fixtures
GROUPS, SAMPLES = 4, 4


def torchrun(*line, processes: int = 2) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([*command, *map(str, line)], capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


# ---- the same rollout, in one process and in two --------------------------------------------------------------------


def make_rollout(transformer, head) -> tuple[sample.Rollout, torch.Tensor]:
    """Completions of very different lengths, and their advantages: the last two groups of four pull nothing."""
    prompts = [[49 + i] * (1 + 3 * i) for i in range(GROUPS)]
    generator = torch.Generator().manual_seed(5)
    rollout = sample.generate(
        transformer, head, prompts, SAMPLES, 12, set(range(0, 257, 7)), generator, keep_hidden=True
    )
    advantage = torch.randn(GROUPS * SAMPLES, generator=generator)
    advantage[GROUPS * SAMPLES // 2 :] = 0
    return rollout, advantage


def two_steps(folder: Path, is_sharded: bool, uneven: bool, settings: rl.StepSettings) -> tuple[dict, dict, dict]:
    """Weights of both sides after a step of each, and the metrics of the token step."""
    transformer = model.load(folder)
    torch.manual_seed(0)
    head = temperature_head.TemperatureHead(transformer.config.d_model)
    rollout, advantage = make_rollout(transformer, head)
    if not uneven:
        advantage = torch.linspace(-1, 1, len(advantage)).sin()
    mine = torch.tensor(distributed.share(list(range(len(advantage)))))
    rollout, advantage = rollout.rows(mine), advantage[mine]
    sampler = distributed.shard(transformer, "cpu") if is_sharded else transformer
    optimizers = [torch.optim.AdamW(side.parameters(), lr=1e-2, weight_decay=0.0) for side in (transformer, head)]
    told = rl.token_step(transformer, optimizers[0], rollout, advantage, settings)
    rl.temperature_step(head, optimizers[1], rollout, advantage, settings)
    distributed.refresh(sampler, transformer)
    for name, tensor in distributed.whole(transformer.state_dict()).items():
        assert torch.equal(tensor, sampler.state_dict()[name])
    return distributed.whole(transformer.state_dict()), head.state_dict(), told


CASES = [
    (is_sharded, uneven, bonus)
    for is_sharded in (False, True)
    for uneven, bonus in ((False, 0.0), (True, 0.0), (True, 0.01))
]


def settings_of(bonus: float) -> rl.StepSettings:
    return rl.StepSettings(epochs=3, micro_batch_tokens=40, entropy_bonus=bonus, max_grad_norm=0.05)


def worker(folder: str, out: str) -> None:
    """What each of the two processes runs."""
    torch.set_num_threads(1)
    distributed.start("cpu")
    results = [two_steps(Path(folder), is_sharded, uneven, settings_of(bonus)) for is_sharded, uneven, bonus in CASES]
    if distributed.is_first():
        torch.save(results, out)
    distributed.stop()


def test_two_processes_take_the_step_of_one(base, tmp_path):
    """To rounding: with tokens that fall unevenly, and where one process has nothing to learn; sharded or not."""
    done = torchrun(Path(__file__), base, tmp_path / "results.pt")
    assert done.returncode == 0, done.stderr
    results = torch.load(tmp_path / "results.pt", weights_only=True)
    first = model.load(base).state_dict()
    for (_, uneven, bonus), (theta, phi, told) in zip(CASES, results, strict=True):
        expected_theta, expected_phi, expected = two_steps(base, False, uneven, settings_of(bonus))
        for found, wanted in ((theta, expected_theta), (phi, expected_phi)):
            for name in wanted:
                torch.testing.assert_close(
                    found[name], wanted[name], rtol=1e-4, atol=2e-6, msg=f"{name} {uneven} {bonus}"
                )
        assert any((theta[name] - first[name]).abs().max() > 1e-3 for name in theta)
        assert told["loss"] == pytest.approx(expected["loss"], rel=1e-4, abs=1e-7)
        assert told["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)


# ---- whole runs -----------------------------------------------------------------------------------------------------


def lively(words: list[str]) -> list[str]:
    """A script that trains with the lottery for a reward."""
    code = "import sys, tasks, test_checkpoint, train; tasks.rewards = test_checkpoint.lottery; train.main()"
    return ["--no-python", sys.executable, "-c", code, *words]


@pytest.mark.parametrize("more", [(), ("--shard",)])
def test_a_run_on_two_processes_is_saved_and_resumed(base, tmp_path, more):
    """One metrics file, one checkpoint, one table; a resumed run is the unbroken one, sharded too."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    done = torchrun(*lively(words(base, whole, "--steps", "4", "--eval-every", "0", *more)))
    assert done.returncode == 0, done.stderr
    rows = metrics_of(whole)
    assert [row["step"] for row in rows] == [0, 1, 2, 3] and all(row["token/gradient_norm"] > 0 for row in rows)
    assert (whole / "after.json").exists() and done.stdout.count("report:") == 1
    assert model.load(whole) and temperature_head.load(whole)
    before, after = load_file(base / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(not torch.equal(before[name], after[name]) for name in before)
    if more:  # half a run, and the rest
        for steps, how in (("2", ()), ("4", ("--resume",))):
            done = torchrun(*lively(words(base, run, "--steps", steps, "--eval-every", "0", *more, *how)))
            assert done.returncode == 0, done.stderr
        assert metrics_of(run) == rows
        assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
        moments = state_file(run)["optimizers"]["token"]["state"]
        assert moments[0]["exp_avg"].shape == before["model.embed_tokens.weight"].shape, "whole, not a shard"


def test_a_mistake_under_torchrun_is_one_line(base, tmp_path):
    done = torchrun(ROOT / "train.py", *words(base, tmp_path / "run", "--prompts-per-step", "3"))
    said = [line for line in done.stderr.splitlines() if line.startswith("train.py:")]
    assert said == ["train.py: --prompts-per-step 3 is no multiple of the 2 processes"] and done.returncode


def test_flags_that_need_several_processes():
    with pytest.raises(ValueError, match="--shard needs several processes: torchrun"):
        config.validate(config.Config(shard=True, out="runs/none"))


def test_processes_ask_different_problems_and_draw_differently(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    shares, draws = [], []
    for rank in range(4):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        shares += distributed.share(list(range(12)))
        draws.append(float(torch.rand(1, generator=checkpoint.random_state(0, 3, process=distributed.rank()))))
    assert shares == list(range(12)) and len(set(draws)) == 4
    assert draws[0] == float(torch.rand(1, generator=checkpoint.random_state(0, 3)))


if __name__ == "__main__":
    worker(*sys.argv[1:])
