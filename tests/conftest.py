"""What the tests share: the repository on the path, small models of each family, and the folder of real data."""

import json
import os
import sys
from pathlib import Path

# Small tensors: more threads only wait for each other, and numpy's, which spin, starve the suite's other process.  Before
# anything reads it, and for the commands too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT))


# On a CI machine the same examples every time; elsewhere new ones, which is how counterexamples are found.
hypothesis.settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("house")


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
    torch.set_num_threads(1)  # also where the environment asks for more


def byte_level(folder: Path, *special: str, **settings):
    """A tokenizer with one token a byte, then `special` from 256 on; `settings` are its tokenizer_config.json."""
    import tokenizer  # after the threads are set

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer.byte_level_file(list(special))))
    if settings:
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | settings
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer.load(folder)


@pytest.fixture
def transformer():
    """A random decoder of 11 tokens; files that need another have their own."""
    import model  # after the threads are set

    torch.manual_seed(0)
    sizes = dict(d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_head=4, d_mlp=24, max_length=40)
    made = model.Transformer(model.Config(vocab_size=11, tied=True, **sizes))
    with torch.no_grad():
        made.embed.weight.mul_(0.25)
    return made


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"needs the folder of real data, {SHARED.name}/ beside the repository")
    return SHARED
