"""Text <-> token ids: tiktoken over a Hugging Face `tokenizer.json`.

A language model reads ids, not text. Byte-level byte-pair encoding (BPE) makes them in four steps:

    text -> normalize (NFC, where the file asks) -> split into word-like pieces by a regex -> the UTF-8 bytes of each
    piece -> join neighbouring bytes, then neighbouring tokens, in the order in which training learned the joins (merges)

Every open model publishes these steps as a `tokenizer.json`. tiktoken runs them fast, with little code. The two agree
only under conditions, so files/tokenizer_file.py reads the steps one by one, makes sure that tiktoken gives the same ids,
and refuses a file that it cannot represent. A slightly wrong tokenizer would train the policy on prompts that its base
model never saw, and no metric would show it.

Two rules protect a run. `encode` never adds a begin-of-text token, so a prompt cannot get two: `bos_id` is the token
that the model expects. Text matches added tokens such as <|im_start|> only with `allow_added=True`. Prompt templates
use it and user text does not, so a user cannot forge a turn of the dialogue.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     _ = Path(folder, "tokenizer.json").write_text(json.dumps(byte_level_file(["<|end|>"])))
...     tokenizer = load(folder)
>>> tokenizer.encode("Hé<|end|>", allow_added=True), len(tokenizer.encode("<|end|>"))
([72, 195, 169, 256], 7)
>>> tokenizer.decode([72, 195, 169, 256]), tokenizer.decode([72, 195, 169, 256], skip_special=True)
('Hé<|end|>', 'Hé')
>>> tokenizer.token_bytes(195), tokenizer.vocab_size, tokenizer.token_to_id("<|end|>")
(b'\\xc3', 257, 256)
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import regex  # comes with tiktoken; Python's own `re` lacks \p{L}
import tiktoken

from files import weights
from files.tokenizer_file import (
    BYTE_OF,
    added_in_settings,
    begin_of_text,
    check_added,
    check_parts,
    read_chat_template,
    read_eos_ids,
    read_json,
    spelled_bytes,
    split_pattern,
    steps_of,
    tiktoken_ranks,
)

SAVED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")  # kept as they were read
FILES = (*SAVED, "config.json", "generation_config.json")


def load(name_or_path: str | Path) -> "Tokenizer":
    """The tokenizer of a folder in Hugging Face format, or of a model on the hub such as "Qwen/Qwen3-0.6B".

    `id@revision` is a branch, tag or commit of the hub's model.
    FileNotFoundError: there is no such model. ValueError: tiktoken cannot represent its tokenizer.
    """
    folder = weights.find_folder(name_or_path, FILES)
    if not (folder / FILES[0]).is_file():
        raise FileNotFoundError(f"{folder}: it has no tokenizer.json; transformers' save_pretrained writes one")
    try:
        return Tokenizer(folder)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:  # a part has an unexpected form
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(f"{folder / FILES[0]}: not a valid tokenizer ({problem}); download it again") from error


class Tokenizer:
    """What `load` returns.

    eos_ids            tokens that end a completion
    bos_id             the token that a prompt should begin with, or None
    chat_template      the model's own, or None
    template_tokens    the special tokens that the template may use, such as bos_token
    """

    def __init__(self, folder: Path):
        file = folder / FILES[0]
        self._files = {name: (folder / name).read_bytes() for name in SAVED if (folder / name).is_file()}
        spec = read_json(file)
        try:
            check_parts(spec)
            self._pattern = split_pattern(spec.get("pre_tokenizer"))
            model, vocab = spec["model"], spec["model"]["vocab"]
            ranks = tiktoken_ranks(vocab, model["merges"], model.get("ignore_merges", False))
            added = spec.get("added_tokens") or []
            added = check_added(added + added_in_settings(folder, added), vocab)
            bos = begin_of_text(spec.get("post_processor"))
        except ValueError as problem:
            known = "byte-level BPE as in GPT-2, Llama-3, Qwen2, Qwen2.5, Qwen3 and SmolLM2"
            raise ValueError(f"{file}: {problem} is not supported; use a model with {known}") from None
        # tiktoken needs all 256 bytes, and ids in the order of the merges. A file may lack bytes and use any order. So
        # tiktoken works with ranks, and this table maps them to ids.
        self._id_of_rank = {rank: vocab.get(token) for token, rank in ranks.items()}
        self._absent = bytes(byte for char, byte in BYTE_OF.items() if char not in vocab)
        ranks = {spelled_bytes(token): rank for token, rank in ranks.items()}
        self._bpe = tiktoken.Encoding(str(file), pat_str=self._pattern, mergeable_ranks=ranks, special_tokens={})
        self._nfc = bool(steps_of(spec.get("normalizer")))
        self._added = {token["content"]: token["id"] for token in added}
        self._special = {token["id"] for token in added if token.get("special")}
        # Added tokens are matched before the text is normalized, and those marked `normalized` after it.
        self._added_before = any_of(token["content"] for token in added if not token.get("normalized"))
        self._added_after = any_of(token["content"] for token in added if token.get("normalized"))
        self._bytes = {i: spelled_bytes(token) for token, i in vocab.items()}
        self._bytes |= {i: content.encode() for content, i in self._added.items()}
        self.vocab_size = max(self._bytes) + 1
        self.bos_id = self._added.get(bos)
        self.eos_ids = read_eos_ids(folder, self._added)
        self.chat_template, self.template_tokens = read_chat_template(folder)

    def encode(self, text: str, allow_added: bool = False) -> list[int]:
        """Ids of `text`, without a begin-of-text token. Half a surrogate pair is not text, and becomes U+FFFD.

        ValueError: 100,000 white-space characters in a row. Much longer runs crash tiktoken.
        """
        if len(text) > 100_000 and any(len(run[0]) >= 100_000 for run in re.finditer(r"\s+", text)):
            raise ValueError("a text with 100,000 white-space characters in a row cannot be encoded")
        if allow_added:
            return self._encode_parts(self._parts(text))
        return self._encode_text(self._normalize(whole_text(text)))

    def encode_inside(self, before: str, text: str, after: str) -> list[int]:
        """Ids of `before + text + after`. Added tokens are matched in `before` and `after`, never in `text`.

        The three are one text: unless an added token separates them, a token may cover the end of one and the start of the next.
        """
        (*begin, left), (right, *end) = self._parts(before), self._parts(after)
        return self._encode_parts(begin) + self.encode(left + text + right) + self._encode_parts(end)

    def _parts(self, text: str) -> list[str | int]:
        """`text` split at its added tokens: text, id, text, ..., id, text."""
        parts: list[str | int] = []
        for i, part in enumerate(self._added_before.split(whole_text(text))):
            if i % 2:  # odd places hold what the pattern matched
                parts.append(self._added[part])
                continue
            for j, piece in enumerate(self._added_after.split(self._normalize(part))):
                parts.append(self._added[piece] if j % 2 else piece)
        return parts

    def _encode_parts(self, parts: list[str | int]) -> list[int]:
        return [i for part in parts for i in ([part] if isinstance(part, int) else self._encode_text(part))]

    def _normalize(self, text: str) -> str:
        return unicodedata.normalize("NFC", text) if self._nfc else text

    def _encode_text(self, text: str) -> list[int]:
        data = text.encode()
        if len(data.translate(None, self._absent)) == len(data):
            ranks = self._bpe.encode_ordinary(text)
        else:  # as in `tokenizers`, drop bytes without a token from each piece before the merges
            pieces = [match.group().encode() for match in regex.finditer(self._pattern, text)]
            kept = filter(None, (piece.translate(None, self._absent) for piece in pieces))
            ranks = [rank for piece in kept for rank in self._bpe._encode_single_piece(piece)]
        return [self._id_of_rank[rank] for rank in ranks]

    def decode(self, ids: list[int], skip_special: bool = False) -> str:
        """The text of `ids`. Bytes that are not a whole UTF-8 character become U+FFFD."""
        kept = (i for i in ids if not (skip_special and int(i) in self._special))
        return b"".join(map(self.token_bytes, kept)).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token, which may be part of a character. A streaming display joins them.

        Empty for an id without a token: models pad their vocabulary to a round number, and may sample from the padding.
        """
        return self._bytes.get(int(token_id), b"")

    def token_to_id(self, content: str) -> int | None:
        """The id of an added token such as "<|im_end|>", or None."""
        return self._added.get(content)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja, byte for byte as they were read.

        If there was no tokenizer_config.json, write one that makes transformers, and engines that load through it, use
        tokenizer.json unchanged. Without it they would split text by the rules of the model's family.
        """
        ends = [content for content, i in self._added.items() if i in self.eos_ids]
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} | ({"eos_token": ends[0]} if ends else {})
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, content in ({"tokenizer_config.json": json.dumps(config).encode()} | self._files).items():
            Path(folder, name).write_bytes(content)


def whole_text(text: str) -> str:
    """`text` with U+FFFD in place of each half of a surrogate pair, which UTF-8 cannot encode."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def any_of(contents: Iterable[str]) -> re.Pattern:
    """A pattern for split() that matches the longest of `contents`, or nothing if there are none."""
    return re.compile(f"({'|'.join(map(re.escape, sorted(contents, key=len, reverse=True))) or '(?!)'})")


def byte_level_file(special_tokens: list[str]) -> dict:
    """A tokenizer.json with one token for each byte (id = byte), no merges, and special tokens 256, 257, ..."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": 256 + i, "content": content, **flags} for i, content in enumerate(special_tokens)]
    model = {"type": "BPE", "byte_fallback": False, "ignore_merges": False, "vocab": BYTE_OF, "merges": []}
    parts = {"normalizer": None, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts, "model": model}
