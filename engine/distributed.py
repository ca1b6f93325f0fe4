"""One run on many processes, on one machine or several: `torchrun --nproc-per-node=N train.py`.

Each process samples its own share of a step's problems and adds its part of the gradient,

    dL/dtheta  =  sum over processes  1/N  sum over its tokens  dl_t,         N = the sampled tokens of all processes

so the update equals that of one process with the whole batch, however the tokens are distributed.  The first process writes.

    default      every process holds weights, gradients and both of Adam's moments: 16 bytes a parameter
    --shard      FSDP2: each process holds 1/W of these and gathers one layer at a time.  It samples from a whole copy, gathered
                 after each step: on a GPU 2 bytes a parameter, 4 for the embedding.  The update differs only by rounding.

docs/scaling.md has the costs, and says when to use another system.  With a single process this file does nothing.
"""

import copy
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


def size() -> int:
    """W, the number of processes that torchrun started; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    return int(os.environ["RANK"]) if "LOCAL_RANK" in os.environ else 0


def is_first() -> bool:
    """Whether this process writes."""
    return rank() == 0


def is_first_here() -> bool:
    """Whether this process prints for its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def start(device: str) -> str:
    """Join the other processes -> the device of this process."""
    if size() == 1:
        return device
    on_cuda = device.startswith("cuda")
    if on_cuda:
        here, there_are = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if here > there_are:
            raise ValueError(
                f"{here} processes, but this machine has {there_are} CUDA devices: use --nproc-per-node={there_are}"
            )
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():  # name the backend: by default torch uses NCCL if there is a GPU, even an unused one
        backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
        dist.init_process_group(backend, timeout=timedelta(days=1))  # the others wait while the first process evaluates
    return device


def stop() -> None:
    """With several processes: wait for all of them, then exit this process with status 0.

    They exit together, because a process can be aborted when the other end closes its connection.  They exit without Python's
    shutdown, because torch's caches keep the process group alive, and its threads probably caused the rare aborts seen there.
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def wait() -> None:
    """Wait until all processes are here."""
    if size() > 1:
        dist.barrier()


def share(items: list) -> list:
    """This process's part of `items`, whose number is a multiple of W."""
    each = len(items) // size()
    return items[rank() * each : (rank() + 1) * each]


def total(number: Tensor) -> Tensor:
    """The sum over all processes."""
    if size() > 1:
        number = number.clone()
        dist.all_reduce(number)
    return number


def any_of(flag: bool) -> bool:
    """Whether `flag` is true in any process, so that all processes decide the same."""
    return bool(total(torch.tensor(float(flag))) > 0)


def mean(metrics: dict[str, float]) -> dict[str, float]:
    """The mean of each metric over the processes that have it.  Equal values stay exactly as they are."""
    if size() == 1:
        return metrics
    found: list = [None] * size()
    dist.all_gather_object(found, metrics)
    of_name = {name: [m[name] for m in found if name in m] for m in found for name in m}
    return {name: v[0] if len(set(v)) == 1 else sum(v) / len(v) for name, v in of_name.items()}


def is_sharded(module: torch.nn.Module) -> bool:
    return any(hasattr(parameter, "full_tensor") for parameter in module.parameters())


def add_gradients(module: torch.nn.Module) -> None:
    """Replace each gradient by its sum over processes.  With --shard the backward pass already did."""
    if size() == 1 or is_sharded(module):
        return
    for parameter in module.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for work in [dist.all_reduce(parameter.grad, async_op=True) for parameter in module.parameters()]:
        work.wait()


def clip(module: torch.nn.Module, max_norm: float) -> float:
    """Scale the gradient down to `max_norm` -> its norm before that."""
    return float(whole(torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm)))


def in_step(module: torch.nn.Module, batches):
    """(micro-batch, weight).  With --shard all processes need the same number of micro-batches, because they gather layers
    together.  A process with fewer repeats its first row with weight 0."""
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
    """Shard the transformer over all processes, layer by layer -> a whole copy for sampling, which `refresh` updates."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    sampler = copy.deepcopy(transformer).requires_grad_(False)
    for module in sampler.modules():  # autocast would convert them at each use
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
    """Gather the weights into the copy for sampling."""
    if sampler is not transformer:
        for ours, theirs in zip(sampler.parameters(), transformer.parameters(), strict=True):
            ours.copy_(theirs.to(ours.dtype).full_tensor())


def whole(value):
    """Gather a tensor, or a tree of them, from its shards.  All processes must call this."""
    if isinstance(value, dict):
        return {name: whole(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(whole(part) for part in value)
    return value.full_tensor().cpu() if hasattr(value, "full_tensor") else value


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """`optimizer.load_state_dict` of a gathered state, sharded like the parameters."""
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
