"""A trained run outside this repository: transformers runs the model, and the head chooses every token's temperature.

    python docs/generate_with_transformers.py --model runs/modular --prompt "5,+7,-4,*3=32:"

A run's folder is a Hugging Face model folder with the head's weights beside the model's. Two hooks turn transformers' `generate`
into the policy of two levels:

    h_t                                  a forward hook on the final norm, whose output the unembedding reads
    tau_t ~ pi_phi(. | h_t, tau_{t-1})   a LogitsProcessor, which asks the head and divides the logits by its answer
    y_t ~ softmax(logits_t / tau_t)      `generate` itself, without top-k and top-p

It needs transformers, torch, safetensors, and of this repository temperature_head.py and token_policy.py. The prompt is used as it
is: for a chat model give the text that training used (`tasks.render`), special tokens included.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # or copy the two files beside this one
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor
from transformers.utils import logging

import temperature_head
from temperature_head import Action, EntropyHead, NoGateHead, SequenceHead, TemperatureHead

HEADS = {head.kind: head for head in (TemperatureHead, SequenceHead, NoGateHead, EntropyHead)}


class TemperaturePolicy(LogitsProcessor):
    """pi_phi inside `generate`, for one call of it:

        with TemperaturePolicy(model, head) as policy:
            model.generate(..., do_sample=True, temperature=1.0, top_k=0, top_p=1.0, logits_processor=[policy])

    Then `policy.actions[t]` has what the head drew at step t for each of the B rows. Ignore what a row draws after its end.
    Beam search and assisted decoding reorder or reject rows, so they do not work.
    """

    def __init__(self, model, head):
        decoder = model.base_model
        self.norm = decoder.ln_f if hasattr(decoder, "ln_f") else decoder.norm  # GPT-2's name, and the others'
        self.head, self.hidden, self.actions = head, torch.empty(0), list[Action]()

    def __enter__(self):
        self.hook = self.norm.register_forward_hook(self.keep)
        return self

    def __exit__(self, *error):
        self.hook.remove()

    def keep(self, norm, inputs, output: Tensor) -> None:
        """output (B, T, d). Prompts are padded on the left, so each row's last position is h_t."""
        self.hidden = output[:, -1]  # (B, d)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores (B, V), the logits in float32 -> logits / tau_t."""
        previous = (
            self.actions[-1].temperature if self.actions else scores.new_full(scores.shape[:1], self.head.tau_initial)
        )
        reads = self.head.reads(self.hidden, scores)  # (B, d)
        self.actions.append(self.head.act(reads, previous, step=len(self.actions)))  # tau_t, from each row's tau_{t-1}
        return scores / self.actions[-1].temperature[:, None]


def load(folder: str, device: str):
    """(model, tokenizer, head) of a run's folder. FileNotFoundError or ValueError if it is not one."""
    head = temperature_head.load(folder, device, HEADS)
    ran = Path(folder) / "run.json"
    if ran.is_file() and "+" in json.loads(ran.read_text(encoding="utf-8")).get("policy", ""):
        raise ValueError(
            f"{folder}: its head was trained with a cut of unlikely tokens, which this script does not make"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # padding is masked, so any token will do
    if tokenizer.pad_token is None:
        raise ValueError(f"{folder}: its tokenizer has no end-of-text token")
    model = AutoModelForCausalLM.from_pretrained(folder).to(device).eval()
    if head.settings["d_model"] != model.config.hidden_size:
        raise ValueError(f"{folder}: the temperature head and the model have different widths")
    return model, tokenizer, head


def complete(
    model, tokenizer, head, prompts: list[str], samples: int, max_new_tokens: int
) -> list[list[tuple[str, float]]]:
    """[(token, temperature), ...] of each completion, the end-of-text token included; `samples` completions of each prompt.

    max_new_tokens 0: 1024, or what the context leaves. The draws use torch's global generator.
    """
    asked = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)
    length, context = asked["input_ids"].shape[1], model.config.max_position_embeddings
    max_new_tokens = max_new_tokens or min(1024, context - length)
    if max_new_tokens < 1 or length + max_new_tokens > context:
        raise ValueError(f"a prompt of {length} tokens and {max_new_tokens} new tokens exceed the model's context")
    with TemperaturePolicy(model, head) as policy:
        tokens = model.generate(
            **asked, max_new_tokens=max_new_tokens, num_return_sequences=samples, pad_token_id=tokenizer.pad_token_id,
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, logits_processor=[policy],
        )[:, length:]  # fmt: skip
    temperatures = torch.stack([action.temperature for action in policy.actions], dim=1)  # (B, T)
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    rows = []
    for ids, taus in zip(tokens.tolist(), temperatures.tolist()):
        used = next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))
        rows.append([(tokenizer.decode([token]), tau) for token, tau in zip(ids[:used], taus)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Sample with transformers, at the temperatures of a run's head.")
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message}; --help lists the flags\n")
    parser.add_argument("--model", required=True, help="folder of a run")
    parser.add_argument(
        "--prompt", required=True, nargs="+", help="one or more prompts, exactly as the model should read them"
    )
    parser.add_argument("--samples", type=int, default=1, help="completions of each prompt [1]")
    parser.add_argument(
        "--max-new-tokens", type=int, default=0, help="longest completion; 0: 1024, or what the context leaves [0]"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same completions [0]")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        if arguments.samples < 1 or arguments.max_new_tokens < 0 or not all(arguments.prompt):
            raise ValueError("--samples must be at least 1, --max-new-tokens at least 0, and no prompt empty")
        model, tokenizer, head = load(arguments.model, "cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(arguments.seed)
        rows = complete(model, tokenizer, head, arguments.prompt, arguments.samples, arguments.max_new_tokens)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # transformers' messages have many lines
        print(f"{parser.prog}: {(str(error).strip() or type(error).__name__).splitlines()[0]}", file=sys.stderr)
        sys.exit(2)
    for row, drawn in enumerate(rows):
        print(arguments.prompt[row // arguments.samples], " ".join(f"{token}[{tau:.2f}]" for token, tau in drawn))


if __name__ == "__main__":
    main()
