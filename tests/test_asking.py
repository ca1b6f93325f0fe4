"""A run with a prompt, a stop and a reward of the user's own, through the commands: its folder asks as the run did."""

import json
import re

import pytest
import torch
from conftest import byte_level

import eval as evaluation
import model
import sample
import tasks
import train

FEW_SHOT = "Q: 1+1\nA: 2;\nQ: {problem}\nA:\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model that often writes a semicolon, a file of problems, a template and a reward."""
    folder = tmp_path_factory.mktemp("asking")
    byte_level(folder, "<|endoftext|>")
    torch.manual_seed(0)
    sizes = dict(d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_head=8, d_mlp=24, max_length=128, tied=True)
    transformer = model.Transformer(model.Config(vocab_size=257, **sizes))
    with torch.no_grad():
        transformer.embed.weight.mul_(0.1)
        prompt = torch.tensor([list(FEW_SHOT.format(problem="what is 7?").encode())])
        transformer.embed.weight[ord(";")] = 0.3 * transformer(prompt)[0, -1]
    transformer.original_config = {"eos_token_id": 256}
    model.save(transformer, folder)
    rows = [{"question": f"what is {i}?", "answer": f"it is so\n#### {i}"} for i in range(40)]
    (folder / "problems.json").write_text(json.dumps(rows))
    (folder / "few.txt").write_text(FEW_SHOT)
    (folder / "short.py").write_text("def short(text, problem, answer):\n    return float(len(text) < 4) / 2\n")
    return folder


def run(monkeypatch, capsys, main, *words) -> str:
    monkeypatch.setattr("sys.argv", [main.__module__ + ".py", *map(str, words)])
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, capsys.readouterr().err
    return capsys.readouterr().out


def test_a_run_s_folder_asks_stops_and_rewards_as_the_run_did(folder, tmp_path, monkeypatch, capsys):
    asked, really = [], tasks.render
    monkeypatch.setattr(tasks, "render", lambda *of: asked.append(really(*of)) or asked[-1])
    out = tmp_path / "run"
    run(monkeypatch, capsys, train.main, "--model", folder, "--task", folder / "problems.json", "--out", out,
        "--template", folder / "few.txt", "--stop", ";", "--reward", f"{folder / 'short.py'}:short", "--steps", 1,
        "--prompts-per-step", 4, "--samples-per-prompt", 4, "--max-new-tokens", 8, "--eval-samples", 2, "--final-problems", 6)  # fmt: skip
    before, after = (part.encode() for part in FEW_SHOT.rstrip("\n").split("{problem}"))
    assert len(asked) >= 40 and all(bytes(ids).startswith(before) and bytes(ids).endswith(after) for ids in asked)
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any(0 < row.get("reward", 0) <= 0.5 for row in metrics), "half a point for a short completion"
    held_out = [json.loads(line)["answer"] for line in (out / "held_out.jsonl").read_text().splitlines()]
    assert len(held_out) == 6 and all(answer.isdigit() for answer in held_out), "what follows the hashes"

    (folder / "few.txt").unlink()
    asked.clear()
    text = run(
        monkeypatch, capsys, sample.main, "--model", out, "--prompt", "what is 7?", "--policy", "1.5", "--seed", "3"
    )
    assert [bytes(ids) for ids in asked] == [before + b"what is 7?" + after]
    assert text.rpartition("\n[")[0].partition(";")[1:] == (";", ""), "it ends there"
    asked.clear()
    run(
        monkeypatch,
        capsys,
        evaluation.main,
        "--model",
        out,
        "--policy",
        "1.0",
        "--samples",
        4,
        "--out",
        tmp_path / "e.json",
    )
    assert len(asked) == 6 and all(bytes(ids).startswith(before) for ids in asked)
    (result,) = json.loads((tmp_path / "e.json").read_text())["results"].values()
    assert 0 < result["Avg@4"] <= 0.5 and result["truncated"] < 1
    asked.clear()
    run(
        monkeypatch,
        capsys,
        sample.main,
        "--model",
        out,
        "--prompt",
        "why?",
        "--template",
        "plain",
        "--instruction",
        "Hm.",
    )
    assert bytes(asked[0]) == b"Question: why?\nHm.\nAnswer:", "flags win"


@pytest.mark.parametrize(
    "words, said",
    [
        (["--template", "absent.txt"], "'absent.txt' is none of"),
        (["--template", "no place"], "'no place' is none of"),
        (["--template", "{problem}{problem}"], "must have {problem} in it once"),
        (["--reward", "absent.py:f"], "no such file; it is named as file.py:function"),
        (["--template", "plain", "--system", "Be brief."], "a system turn needs a chat template"),
        (["--template", "chat"], "no chat template"),
    ],
)
def test_a_mistake_is_one_line(words, said, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train.py", "--model", str(folder), "--task", str(folder / "problems.json"),
                                     "--out", str(tmp_path / "run"), *words])  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        train.main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and said in error and len(re.findall("\n", error)) == 1, error
    assert not (tmp_path / "run").exists()
