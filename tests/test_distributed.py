"""distributed.py: two processes (gloo, on the CPU) take the step of one; and whole runs under torchrun."""

import atexit
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import test_checkpoint
import torch
from safetensors.torch import load_file
from test_checkpoint import metrics_of, state_file, words
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import baselines
import config
import model
import rl
import sample
import temperature_head
from bench import traffic as bench_traffic
from bench.tables import markdown
from engine import distributed
from engine.gradient import FastGradient
from engine.micro_batches import micro_batches
from trainer import checkpoint, checks

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONFAULTHANDLER": "1",
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
}
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
        transformer, head, prompts, SAMPLES, 12, set(range(0, 257, 7)), generator, keep_reads=True
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
    told = rl.token_step(transformer, optimizers[0], rollout, advantage, settings, engine=FastGradient(40))
    rl.temperature_step(head, optimizers[1], rollout, advantage, settings, FastGradient(40))
    distributed.refresh(sampler, transformer)
    for name, tensor in distributed.whole(transformer.state_dict()).items():
        assert torch.equal(tensor, sampler.state_dict()[name])
    return distributed.whole(transformer.state_dict()), head.state_dict(), told


class Sent(TorchDispatchMode):
    """Counts the bytes of what is gathered, scattered or summed while it is entered, of the whole tensors."""

    def __init__(self):
        super().__init__()
        self.bytes: Counter = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        kind = next(
            (kind for kind in ("allreduce", "gather_into", "allgather", "reduce_scatter") if kind in str(function)), ""
        )
        if "c10d" in str(function) and kind:
            tensors = [leaf for leaf in tree_leaves([args, result]) if isinstance(leaf, torch.Tensor)]
            if kind == "allreduce":  # the result is the argument
                tensors = tensors[: len(tensors) // 2]
                self.bytes[kind] += sum(tensor.nbytes for tensor in tensors)
            else:
                self.bytes[kind.replace("allgather", "gather_into")] += max(tensor.nbytes for tensor in tensors)
        return result


SMALL = model.Config(
    258, 16, n_layers=3, n_heads=2, n_kv_heads=1, d_head=8, d_mlp=24, max_length=64, qk_norm=True, tied=True
)


def traffic(is_sharded: bool) -> tuple[int, dict, dict, dict]:
    """(micro-batches, bytes of a token step, of the copy after it, of a checkpoint)."""
    transformer = model.Transformer(SMALL)
    transformer.checkpointing = is_sharded  # layers computed again are not gathered again
    rollout, advantage = make_rollout(transformer, baselines.make("1.0"))
    advantage = torch.ones_like(advantage)
    sampler = distributed.shard(transformer, "cpu") if is_sharded else transformer
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=1e-2)
    engine = FastGradient(40)
    with Sent() as step:
        rl.token_step(transformer, optimizer, rollout, advantage, rl.StepSettings(), engine=engine)
    with Sent() as copied:
        distributed.refresh(sampler, transformer)
    with Sent() as saved:
        distributed.whole([transformer.state_dict(), optimizer.state_dict()])
    batches = len(list(micro_batches(rollout, 40)))
    return batches, dict(step.bytes), dict(copied.bytes), dict(saved.bytes)


CASES = [
    (is_sharded, uneven, bonus)
    for is_sharded in (False, True)
    for uneven, bonus in ((False, 0.0), (True, 0.0), (True, 0.01))
]


def settings_of(bonus: float) -> rl.StepSettings:
    return rl.StepSettings(epochs=3, entropy_bonus=bonus, max_grad_norm=0.05)


def worker(folder: str, out: str) -> None:
    """What each of the two processes runs."""
    torch.set_num_threads(1)
    distributed.start("cpu")
    results = [two_steps(Path(folder), is_sharded, uneven, settings_of(bonus)) for is_sharded, uneven, bonus in CASES]
    results += [traffic(is_sharded) for is_sharded in (False, True)]
    if distributed.is_first():
        torch.save(results, out)
    atexit.register(print, "Python takes itself apart")
    distributed.stop()


@pytest.fixture(scope="module")
def results(base, tmp_path_factory) -> list:
    """Of both processes' work: of each case, then of what was sent without shards and with."""
    out = tmp_path_factory.mktemp("results") / "results.pt"
    done = torchrun(Path(__file__), base, out)
    assert done.returncode == 0, done.stderr
    assert "apart" not in done.stdout, "a process ends where it has stopped"
    return torch.load(out, weights_only=True)


def test_two_processes_take_the_step_of_one(base, results):
    """To rounding: with tokens that fall unevenly, and where one process has nothing to learn; sharded or not."""
    first = model.load(base).state_dict()
    for (_, uneven, bonus), (theta, phi, told) in zip(CASES, results):
        expected_theta, expected_phi, expected = two_steps(base, False, uneven, settings_of(bonus))
        for found, wanted in ((theta, expected_theta), (phi, expected_phi)):
            for name in wanted:
                torch.testing.assert_close(
                    found[name], wanted[name], rtol=1e-4, atol=2e-6, msg=f"{name} {uneven} {bonus}"
                )
        assert any((theta[name] - first[name]).abs().max() > 1e-3 for name in theta)
        assert told["loss"] == pytest.approx(expected["loss"], rel=1e-4, abs=1e-7)
        assert told["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)


def test_the_tables_of_scaling_md_are_what_bench_traffic_prints():
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    for rows in (bench_traffic.traffic_rows(), bench_traffic.memory_rows()):
        assert markdown({"": rows}).strip("# \n") in text, "python -m bench.traffic prints them"


def test_two_processes_send_what_bench_traffic_computes(results):
    (_, plain, *nothing), (batches, step, copied, saved) = results[len(CASES) :]
    one = bench_traffic.sent(SMALL, 2, batches, copied=4)
    expected = {name: 2 * size for name, size in one.items()}  # by two processes
    few = 100  # counts and norms
    assert batches > 3 and nothing == [{}, {}]
    assert 0 <= plain["allreduce"] - expected["sum of gradients"] / 2 <= few and set(plain) == {"allreduce"}
    assert (
        step["gather_into"] == expected["gather of weights"]
        and step["reduce_scatter"] == expected["scatter of gradients"]
    )
    assert step["allreduce"] <= few
    assert copied == {"gather_into": expected["copy"]} and saved == {"gather_into": expected["checkpoint"]}


# ---- whole runs -----------------------------------------------------------------------------------------------------


def lively(words: list[str]) -> list[str]:
    """A script that trains with the lottery for a reward."""
    code = "import sys, tasks, test_checkpoint, train; tasks.rewards = test_checkpoint.lottery; train.main()"
    return ["--no-python", sys.executable, "-c", code, *words]


@pytest.mark.parametrize("more", [(), ("--shard",)])
def test_a_run_on_two_processes_is_saved_and_resumed(base, tmp_path, more):
    """One metrics file, one checkpoint, one table; a resumed run is the unbroken one, sharded too."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    looks = ["--eval-every", "0"] if more else ["--eval-every", "2", "--save-every", "1"]  # one checkpoint is the best
    done = torchrun(*lively(words(base, whole, "--steps", "4", *looks, *more)))
    assert done.returncode == 0, done.stderr
    rows = metrics_of(whole)
    assert [row["step"] for row in rows] == [0, 1, 2, 3] and all(row["token/gradient_norm"] > 0 for row in rows)
    assert ["eval/Avg@2" in row for row in rows] == [False, not more, False, False]
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
    assert said == ["train.py: --prompts-per-step 3 must be a multiple of the 2 processes"] and done.returncode


def test_flags_that_need_several_processes():
    with pytest.raises(ValueError, match="--shard needs several processes: torchrun"):
        checks.validate(config.Config(shard=True, out="runs/none"))


def test_more_processes_than_gpus_are_one_line(monkeypatch):
    for name, value in dict(WORLD_SIZE=2, RANK=0, LOCAL_RANK=0, LOCAL_WORLD_SIZE=2).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="2 processes, but this machine has 1 CUDA devices: use --nproc-per-node=1"):
        distributed.start("cuda")


@pytest.mark.parametrize("device, backend", [("cpu", "gloo"), ("cuda", "cpu:gloo,cuda:nccl")])
def test_the_backend_is_the_devices(device, backend, monkeypatch):
    """Left to itself torch takes NCCL wherever there is a GPU, and has none for tensors on the CPU."""
    for name, value in dict(WORLD_SIZE=2, RANK=1, LOCAL_RANK=1, LOCAL_WORLD_SIZE=2).items():
        monkeypatch.setenv(name, str(value))
    asked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda place: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda name, timeout: asked.append(name))
    assert distributed.start(device) == ("cuda:1" if device == "cuda" else "cpu") and asked == [backend]


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
