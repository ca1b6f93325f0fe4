"""One run on many processes, on one machine or several: `torchrun --nproc-per-node=N train.py`.

Each process asks its own share of a step's problems and adds its part of the gradient,

    dL/dtheta  =  sum over processes  1/N  sum over its tokens  dl_t,         N = the sampled tokens of all processes

so the update is that of one process with the whole batch, however unevenly the tokens fall.  One process writes.

    as it is     every process holds weights, gradients and both of Adam's moments, 16 bytes a parameter
    --shard      FSDP2: each holds 1/W of these, gathers a layer at a time, and samples from a whole copy (on a GPU 2
                 bytes a parameter, 4 of the embedding), gathered after each step; the same update, but for rounding

What that costs, and when to leave it for something else: docs/scaling.md.  In a single process all of this does nothing.
"""

import copy
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


def size() -> int:
    """W, how many processes torchrun has started; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    return int(os.environ["RANK"]) if "LOCAL_RANK" in os.environ else 0


def is_first() -> bool:
    """Whether this process writes."""
    return rank() == 0


def is_first_here() -> bool:
    """Whether this process speaks for its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def start(device: str) -> str:
    """Join the other processes; the device of this one."""
    if size() == 1:
        return device
    on_cuda = device.startswith("cuda")
    if on_cuda:
        here, there_are = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if here > there_are:
            raise ValueError(f"{here} processes, and {there_are} CUDA devices here: --nproc-per-node={there_are}")
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():  # named: left to itself, torch takes NCCL wherever there is a GPU, used or not
        backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
        dist.init_process_group(backend, timeout=timedelta(days=1))  # while the first evaluates, the others wait
    return device


def stop() -> None:
    """End this process, as one of several, after all have come here: nothing of it is run after this.

    Together, because a connection that the other end has closed can abort a process that is still at work.  And at once: torch
    keeps the group in caches of its own (of what is sharded; as defaults of torch.distributed.nn's functions), so that its
    threads live on while Python takes itself apart: the likely reason that one was aborted there now and then.
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def wait() -> None:
    """Until all processes are here."""
    if size() > 1:
        dist.barrier()


def share(items: list) -> list:
    """The part of `items` that is this process's; their number is a multiple of W."""
    each = len(items) // size()
    return items[rank() * each : (rank() + 1) * each]


def total(number: Tensor) -> Tensor:
    """The sum over all processes."""
    if size() > 1:
        number = number.clone()
        dist.all_reduce(number)
    return number


def any_of(flag: bool, device="cpu") -> bool:
    """Whether it is true in any process: what one decides, all do."""
    return bool(total(torch.tensor(float(flag), device=device)) > 0)


def mean(metrics: dict[str, float]) -> dict[str, float]:
    """Over the processes that have each, in the order of the first; what is the same in all stays as it is."""
    if size() == 1:
        return metrics
    found: list = [None] * size()
    dist.all_gather_object(found, metrics)
    of_name = {name: [m[name] for m in found if name in m] for m in found for name in m}
    return {name: v[0] if len(set(v)) == 1 else sum(v) / len(v) for name, v in of_name.items()}


def is_sharded(module: torch.nn.Module) -> bool:
    return any(hasattr(parameter, "full_tensor") for parameter in module.parameters())


def add_gradients(module: torch.nn.Module) -> None:
    """Replace each gradient by the sum over processes; of what is sharded, the backward pass has done it."""
    if size() == 1 or is_sharded(module):
        return
    for parameter in module.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for work in [dist.all_reduce(parameter.grad, async_op=True) for parameter in module.parameters()]:
        work.wait()


def clip(module: torch.nn.Module, max_norm: float) -> float:
    """Scale the gradient down to `max_norm`; its norm before."""
    return float(whole(torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm)))


def in_step(module: torch.nn.Module, batches):
    """(micro-batch, weight).  Where layers are gathered, all processes take equally many: one with fewer repeats a row with
    weight 0."""
    batches = list(batches)
    most = len(batches)
    if is_sharded(module):
        longest = torch.tensor(most, device=next(module.parameters()).device)
        dist.all_reduce(longest, dist.ReduceOp.MAX)
        most = int(longest)
    for place in range(most):
        counts = place < len(batches)
        yield (batches[place] if counts else batches[0][:1]), float(counts)


# ---- sharding -----------------------------------------------------------------------------------------------------


def shard(transformer, device: str):
    """Spread the transformer over all processes, a layer at a time; returns a whole copy to sample from (see `refresh`)."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    sampler = copy.deepcopy(transformer).requires_grad_(False)
    for module in sampler.modules():  # what autocast would convert at each use anyway
        if isinstance(module, torch.nn.Linear) and transformer.compute_dtype is not None:
            module.to(transformer.compute_dtype)
    sampler.to(device)
    mesh = dist.init_device_mesh(device.split(":")[0], (size(),))
    for module in (*transformer.layers, transformer):
        fully_shard(module, mesh=mesh)
    for module in transformer.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # a sum: the loss is divided by the tokens of all processes
            module.set_force_sum_reduction_for_comms(True)
    return sampler


@torch.no_grad()
def refresh(sampler, transformer) -> None:
    """Gather the weights into the copy that samples."""
    if sampler is not transformer:
        for ours, theirs in zip(sampler.parameters(), transformer.parameters(), strict=True):
            ours.copy_(theirs.to(ours.dtype).full_tensor())


def whole(value):
    """A tensor, or a tree of them, without shards; all processes call it."""
    if isinstance(value, dict):
        return {name: whole(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(whole(part) for part in value)
    return value.full_tensor().cpu() if hasattr(value, "full_tensor") else value


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """`optimizer.load_state_dict` of a whole state, cut up as its parameters are."""
    from torch.distributed.tensor import distribute_tensor

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {}
    for index, of_parameter in state["state"].items():
        parameter = parameters[index]
        moments[index] = {
            name: distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
            if hasattr(parameter, "full_tensor") and value.shape == parameter.shape
            else value
            for name, value in of_parameter.items()
        }
    optimizer.load_state_dict(state | {"state": moments})
