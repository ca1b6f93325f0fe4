"""display/log.py, progress.py and terminal.py: what a run writes and prints while it goes on."""

import errno
import sys
import threading

import pytest
import torch

import model
import sample
import tasks
import temperature_head
from display import log, terminal
from display.progress import Progress


class Bytes:
    token_bytes = staticmethod(lambda token: bytes([token]))


class SecondLayer(temperature_head.TemperatureHead):
    layer = 1


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    config = model.Config(
        vocab_size=256, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_head=8, d_mlp=16, max_length=32
    )  # fmt: skip
    transformer = model.Transformer(config)
    with torch.no_grad():
        transformer.unembedding.weight.mul_(8)
    return transformer


@pytest.mark.parametrize("min_p", [0.0, 0.3])
@pytest.mark.parametrize("kind", [temperature_head.TemperatureHead, temperature_head.EntropyHead, SecondLayer])
def test_what_is_said_of_a_token_is_what_the_model_chose(transformer, kind, min_p):
    head, generator = kind(16), torch.Generator().manual_seed(0)
    head.min_p = min_p
    rollout = sample.generate(transformer, head, [[7, 8], [9]], 2, 6, {0}, generator, keep_reads=True)
    told = log.describe(transformer, head, Bytes, rollout, 2)
    ids = rollout.tokens[2].tolist()
    for i in range(6):
        with torch.no_grad():
            tokens = torch.tensor([ids[: 1 + i]])
            hidden, inner = transformer(tokens)[0, -1], transformer(tokens, layers=head.layer)[0, -1:]
            at_one = torch.softmax(transformer.unembed(hidden), dim=-1)
            logits = transformer.unembed(hidden).masked_fill(at_one < min_p * at_one.max(), -torch.inf)
            gate, a, b = (value[0] for value in head(head.reads(inner, logits[None])))
            probabilities = torch.softmax(logits / told["taus"][i], dim=-1)
            at_one = torch.distributions.Categorical(probs=torch.softmax(logits, dim=-1)).entropy()
        exact = [torch.sigmoid(gate), a, b, at_one, probabilities[ids[1 + i]], probabilities.max()]
        shown = [told[name][i] for name in ("gates", "a", "b", "entropies", "probabilities")]
        assert [*shown, told["alternatives"][i][0][1]] == pytest.approx([value.item() for value in exact], abs=2e-4)
        assert told["alternatives"][i][0][0] == bytes([int(probabilities.argmax())]).decode("utf-8", "replace")
        likely = probabilities.sort(descending=True).values[:4]
        listed = [p for _, p in told["alternatives"][i]]
        assert listed == pytest.approx(likely[likely > 0].tolist(), abs=2e-4), "and none that was out"
        assert told["pieces"][i] == bytes([ids[1 + i]]).decode("utf-8", "replace")


def test_a_rollout_that_stored_nothing_shows_no_gates(transformer):
    head = temperature_head.EntropyHead(16)
    rollout = sample.generate(transformer, head, [[7, 8]], 2, 6, {0}, torch.Generator().manual_seed(0))
    told = log.describe(transformer, head, Bytes, rollout, 0)
    assert "gates" not in told and len(told["taus"]) == len(told["alternatives"]) > 0


def test_the_gold_answer_stands_beside_the_one_that_was_given():
    problem = tasks.Problem("What is 6 * 7?", "42")
    assert log.extracted(problem, r"It is \boxed{43}.") == "43" and log.extracted(problem, "") is None
    assert log.extracted(problem, r"<think>\boxed{1}</think>\boxed{2}") == "2"
    modular = tasks.Problem("5,+7,-4,*3=32:", "32", "modular")
    assert [log.extracted(modular, text) for text in ("5+7=12,12*3=36,36-4=32;", "5+7", "5+7=")] == ["32", None, None]


# ---- text in a terminal ---------------------------------------------------------------------------------------------


def test_control_characters_are_written_out():
    hidden = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"]
    for character in hidden:
        assert terminal.visible(f"a{character}b") == f"a\\x{ord(character):02x}b"
    assert terminal.visible("a\tb\n\xa0é\u2028 ~") == "a\tb\n\xa0é\u2028 ~"
    assert terminal.show(["\x1b[2J", "\n"], [1.0, 0.5], colours=False) == "\\x1b[2J[1.00]  [0.50]"
    assert terminal.show(["\x1b"], [1.0], colours=True).count("\x1b") == 2, "our own colour, and its end"


def test_without_a_terminal_there_are_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    progress = Progress(5, 30)
    for _ in progress:
        progress.tell({"reward": 0.25, "tau/mean": 0.5, "entropy": 1.0}, 1234.5)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"step {step} of 30" for step in (6, 10, 20, 30)]
    assert all("reward 0.250, tau 0.50, 1,234 tokens/s, " in line and line.endswith(" left") for line in lines)
    for _ in (hidden := Progress(0, 3, shown=False)):
        hidden.tell({"reward": 0.25, "tau/mean": 0.5, "entropy": 1.0}, 1.0)
    assert capsys.readouterr() == ("", ""), "other processes than the first"


def test_on_a_terminal_there_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress(0, 3)
    for _ in progress:
        progress.tell({"reward": 0.25, "tau/mean": 0.5, "entropy": 1.0}, 1234.5)
    progress.write("a completion")
    out, error = capsys.readouterr()
    assert out == "a completion\n" and "3/3" in error and "reward=0.250" in error


# ---- no TensorBoard, and a full disk -------------------------------------------------------------------------


def test_without_tensorboard_there_are_metrics(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    logs = log.Log(tmp_path, Bytes, 0)
    logs.metrics({"step": 0, "reward": 0.5})
    logs.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 0, "reward": 0.5}\n'
    assert "no TensorBoard files are written" in capsys.readouterr().err and not (tmp_path / "tensorboard").exists()


def test_a_full_disk_is_no_traceback_of_tensorboards_thread(tmp_path, monkeypatch):
    printed = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: printed.append(str(failed.exc_value)))
    logs = log.Log(tmp_path, Bytes, 0)
    threads = logs.board.file_writer.event_writer._async_writer

    def full(data):
        raise OSError(errno.ENOSPC, "No space left on device")

    def wrong():
        raise RuntimeError("something else")

    monkeypatch.setattr(threads._writer, "write", full)
    with pytest.raises(OSError, match="No space left"):  # which train.py tells in one line
        for step in range(1000):
            logs.metrics({"step": step, "reward": 0.5})
    threads._worker.join()
    other = threading.Thread(target=wrong)
    other.start()
    other.join()
    assert printed == ["something else"]
