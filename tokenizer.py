"""Text <-> token ids: tiktoken over a Hugging Face `tokenizer.json`.

A language model reads ids, not text. Byte-level byte-pair encoding (BPE) makes them in four steps:

    text -> normalize (NFC, where the file asks) -> split into word-like pieces by a regex -> the UTF-8 bytes of each
    piece -> join neighbouring bytes, then neighbouring tokens, in the order in which training learned the joins (merges)

Every open model publishes these steps as a `tokenizer.json`; tiktoken runs them fast, in little code. The two agree
only under conditions, so this file reads the steps one by one, makes sure that tiktoken gives the very same ids, and
refuses a file it cannot represent: an almost-right tokenizer would train the policy on prompts that its base model
never saw, and no metric would say so. (The paper takes the tokenizer for granted: there is no equation of it here.)

Two habits protect a run. `encode` never puts a begin-of-text token in front (`bos_id` says which one the model
expects), so a prompt cannot get two. Added tokens such as <|im_start|> are matched in text only when asked
(`allow_added=True`): a prompt template asks, user text does not, so a user cannot forge a turn of the dialogue.

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
from itertools import pairwise
from pathlib import Path

import regex  # comes with tiktoken: Python's own `re` does not know \p{L}
import tiktoken

SAVED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")  # as they were read
FILES = (*SAVED, "config.json", "generation_config.json")
# The split of a ByteLevel pre-tokenizer that brings no regex of its own.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# "Digits" cuts out each digit, and GPT2_PATTERN then sees only the text between two. In one pass: a digit is a piece
# by itself, and `(?!\S)`, "no more text follows", also holds in front of a digit.
DIGITS_PATTERN = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
# What the regex engines of `tokenizers` and tiktoken read differently, or may: ^ and $ in lines, \h, x{2}+, (?m), ...
UNSAFE_SYNTAX = re.compile(r"\$|(?<!\[)\^|\d\}\+|\\[^rntsSpP\\'/.-]|\(\?[^i:!=]|&&|\[\[")
# The printable character that stands for each byte in a tokenizer.json: itself, or one from U+0100 on ("Ġ" is a space).
PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
UNPRINTABLE = [byte for byte in range(256) if byte not in PRINTABLE]
CHAR_OF = [chr(byte if byte in PRINTABLE else 256 + UNPRINTABLE.index(byte)) for byte in range(256)]
BYTE_OF = {char: byte for byte, char in enumerate(CHAR_OF)}
NEVER = 1 << 32  # a rank above every other


def load(name_or_path: str | Path) -> "Tokenizer":
    """The tokenizer of a folder in Hugging Face format, or of a model on the hub such as "Qwen/Qwen3-0.6B".

    `id@revision` is that branch, tag or commit of the hub's model.
    Raises FileNotFoundError where there is no such model and ValueError for a tokenizer that tiktoken cannot represent.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        hub_id, at, revision = str(name_or_path).partition("@")
        if at and not revision:  # not silently what is newest: a variable of the shell may have been empty
            raise FileNotFoundError(f"{name_or_path}: no revision after the @")
        try:
            from huggingface_hub import snapshot_download  # here, since a local folder needs no hub

            folder = Path(snapshot_download(hub_id, revision=revision or None, allow_patterns=list(FILES)))
        except Exception as error:  # not a hub id, no such model or revision, no network, no permission, no hub library
            reason = f"neither a folder here nor a model that the hub gave ({type(error).__name__})"
            raise FileNotFoundError(f"{name_or_path}: {reason}; check the name") from error
    if not (folder / FILES[0]).is_file():
        raise FileNotFoundError(f"{folder}: there is no tokenizer.json in it; transformers' save_pretrained writes one")
    try:
        return Tokenizer(folder)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:  # a part has another shape
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{folder / FILES[0]}: its parts are not those of a tokenizer ({problem}); fetch it again"
        ) from error


class Tokenizer:
    """What load() returns. `eos_ids` end a completion; `bos_id` is what a prompt should begin with, or None."""

    def __init__(self, folder: Path):
        file = folder / FILES[0]
        self._files = {name: (folder / name).read_bytes() for name in SAVED if (folder / name).is_file()}
        spec = read_json(file)
        try:
            check_parts(spec)
            self._pattern = split_pattern(spec.get("pre_tokenizer"))
            model, vocab = spec["model"], spec["model"]["vocab"]
            ranks = tiktoken_ranks(vocab, model["merges"], model.get("ignore_merges", False))
            added = check_added(spec.get("added_tokens") or [], vocab)
            bos = begin_of_text(spec.get("post_processor"))
        except ValueError as problem:
            known = "byte-level BPE as in GPT-2, Llama-3, Qwen2, Qwen2.5, Qwen3 and SmolLM2"
            raise ValueError(f"{file}: {problem} is not supported; use a model with {known}") from None
        # tiktoken wants all 256 bytes, and ids in the order of the merges; a file may lack bytes and number its tokens
        # as it likes. So tiktoken works on ranks, and this table turns them into ids.
        self._id_of_rank = {rank: vocab.get(token) for token, rank in ranks.items()}
        self._absent = bytes(byte for char, byte in BYTE_OF.items() if char not in vocab)
        ranks = {spelled_bytes(token): rank for token, rank in ranks.items()}
        self._bpe = tiktoken.Encoding(str(file), pat_str=self._pattern, mergeable_ranks=ranks, special_tokens={})
        self._nfc = bool(steps_of(spec.get("normalizer")))
        self._added = {token["content"]: token["id"] for token in added}
        self._special = {token["id"] for token in added if token.get("special")}
        # Added tokens are looked for in the text as it came; those marked `normalized`, after its normalization.
        self._added_before = any_of(token["content"] for token in added if not token.get("normalized"))
        self._added_after = any_of(token["content"] for token in added if token.get("normalized"))
        self._bytes = {i: spelled_bytes(token) for token, i in vocab.items()}
        self._bytes |= {i: content.encode() for content, i in self._added.items()}
        self.vocab_size = max(self._bytes) + 1
        self.bos_id = self._added.get(bos)
        self.eos_ids = read_eos_ids(folder, self._added)

    def encode(self, text: str, allow_added: bool = False) -> list[int]:
        """Ids of `text`, nothing put in front. Half a surrogate pair, which is no text, becomes U+FFFD.

        Raises ValueError for 100,000 white-space characters in a row, far more than which end tiktoken's process.
        """
        if len(text) > 100_000 and any(len(run[0]) >= 100_000 for run in re.finditer(r"\s+", text)):
            raise ValueError("a text with 100,000 white-space characters in a row cannot be encoded")
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if not allow_added:
            return self._encode_text(self._normalize(text))
        ids = []
        for i, part in enumerate(self._added_before.split(text)):  # odd places hold what the pattern matched
            if i % 2:
                ids.append(self._added[part])
                continue
            for j, piece in enumerate(self._added_after.split(self._normalize(part))):
                ids.extend([self._added[piece]] if j % 2 else self._encode_text(piece))
        return ids

    def _normalize(self, text: str) -> str:
        return unicodedata.normalize("NFC", text) if self._nfc else text

    def _encode_text(self, text: str) -> list[int]:
        data = text.encode()
        if len(data.translate(None, self._absent)) == len(data):
            ranks = self._bpe.encode_ordinary(text)
        else:  # a byte without a token is dropped from its piece, as in `tokenizers`, and what it parted may merge
            pieces = [match.group().encode() for match in regex.finditer(self._pattern, text)]
            kept = filter(None, (piece.translate(None, self._absent) for piece in pieces))
            ranks = [rank for piece in kept for rank in self._bpe._encode_single_piece(piece)]
        return [self._id_of_rank[rank] for rank in ranks]

    def decode(self, ids: list[int], skip_special: bool = False) -> str:
        """The text of `ids`. Bytes that are no whole UTF-8 character (yet) become U+FFFD."""
        kept = (i for i in ids if not (skip_special and int(i) in self._special))
        return b"".join(map(self.token_bytes, kept)).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token, perhaps part of a character: a display that grows token by token joins these.

        Empty for an id without a token: models pad their vocabulary to a round number, and may sample from the padding.
        """
        return self._bytes.get(int(token_id), b"")

    def token_to_id(self, content: str) -> int | None:
        """The id of an added token such as "<|im_end|>", or None."""
        return self._added.get(content)

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja, byte for byte as they were read.

        Where there was no tokenizer_config.json, one that has transformers, and engines which load through it, take
        tokenizer.json as it stands: without, they would split text by the rules of the model's family.
        """
        ends = [content for content, i in self._added.items() if i in self.eos_ids]
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} | ({"eos_token": ends[0]} if ends else {})
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, content in ({"tokenizer_config.json": json.dumps(config).encode()} | self._files).items():
            Path(folder, name).write_bytes(content)


def byte_level_file(special_tokens: list[str]) -> dict:
    """A tokenizer.json with one token a byte (id = byte), no merges, then the special tokens: 256, 257, ..."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": 256 + i, "content": content, **flags} for i, content in enumerate(special_tokens)]
    model = {"type": "BPE", "byte_fallback": False, "ignore_merges": False, "vocab": BYTE_OF, "merges": []}
    parts = {"normalizer": None, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts, "model": model}


# ---- From here on: the parts of tokenizer.json. What is not exact raises a ValueError that names it. ----


def spelled_bytes(token: str) -> bytes:
    """
    >>> spelled_bytes("Ġhi"), spelled_bytes("▁")  # the second is not in the alphabet: an added token, taken as text
    (b' hi', b'\\xe2\\x96\\x81')
    """
    return bytes(BYTE_OF[char] for char in token) if BYTE_OF.keys() >= set(token) else token.encode()


def steps_of(part: dict | None) -> list[dict]:
    """A part of the file as a list of steps: none, one, or those of a Sequence (under "normalizers", "decoders", ...)."""
    if part is None or part["type"] != "Sequence":
        return [part] if part else []
    return next(steps for key, steps in part.items() if key != "type")


def check_parts(spec: dict) -> None:
    """The settings that would change ids or text in a way that is not done here."""
    model = spec.get("model") or {}
    if model.get("type") != "BPE":
        raise ValueError(f"model type {model.get('type')}")
    for setting in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(setting):
            raise ValueError(f"model setting {setting} = {model[setting]!r}")
    if sorted(model["vocab"].values()) != list(range(len(model["vocab"]))):
        raise ValueError("a vocabulary whose ids are not 0, 1, 2, ...")
    for setting in ("ignore_merges", "unk_token"):  # an unknown token is never used where every byte has its own
        if model.get(setting) and not model["vocab"].keys() >= BYTE_OF.keys():
            raise ValueError(f"{setting} = {model[setting]!r} with single bytes missing from the vocabulary")
    for part, kinds in (("normalizer", [[], ["NFC"]]), ("decoder", [["ByteLevel"]])):
        if [step["type"] for step in steps_of(spec.get(part))] not in kinds:
            raise ValueError(f"{part} {json.dumps(spec.get(part))}")


def split_pattern(pre_tokenizer: dict | None) -> str:
    """The regex whose matches are the pieces."""
    *first, last = steps_of(pre_tokenizer) or [{}]
    if last.get("type") == "ByteLevel" and not last.get("add_prefix_space", True):
        if last.get("use_regex", True) and not first:
            return GPT2_PATTERN
        if last.get("use_regex", True) and first == [{"type": "Digits", "individual_digits": True}]:
            return DIGITS_PATTERN
        pattern = first[0].get("pattern", {}).get("Regex") if first else None
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        if not last.get("use_regex", True) and first == [split] and not UNSAFE_SYNTAX.search(pattern):
            # `tokenizers` makes a piece of the text between two matches; tiktoken alone would lose it.
            return rf"{pattern}|(?:(?!{pattern})[\s\S])+"
    raise ValueError(f"pre_tokenizer {json.dumps(pre_tokenizer)}")


def tiktoken_ranks(vocab: dict[str, int], merges: list, ignore_merges: bool) -> dict[str, int]:
    """Token -> rank (the 256 bytes first) such that tiktoken makes the joins of `merges` ("a b" or ["a", "b"]) only.

    The file lists pairs that may be joined; tiktoken joins any two neighbours that make a token, lowest rank first. As
    long as nothing has joined across a token's ends, its bytes join there as they would alone. So it is enough to see
    each token alone, one join before it is whole: where the two parts left are a pair of the file, in its turn, both
    do the same on every text; where more than two are left, joining never makes this token.

    >>> vocab = dict.fromkeys(["a", "b", "c", "ab", "bc", "abc"])
    >>> list(tiktoken_ranks(vocab, ["b c", "a b", "a bc"], False))[256:]
    ['bc', 'ab', 'abc']
    >>> tiktoken_ranks(vocab, ["b c", "a b", "ab c"], False)
    Traceback (most recent call last):
    ValueError: merging 'abc' from other pairs than 'a' + 'bc', as tiktoken would,
    """
    rank_of, pair_rank, rank, previous = {}, {}, 256, None
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        token = left + right
        if left not in vocab or right not in vocab or token not in vocab:
            raise ValueError(f"a merge of {left!r} and {right!r}, which are not in the vocabulary or make no token,")
        if token != previous:  # Llama-3 lists every pair that makes a token, one after the other: they are one rank
            rank, previous = rank + 1, token
        rank_of.setdefault(token, rank)
        pair_rank[left, right] = rank
    if ignore_merges:  # a piece that is a token is taken as it is: tiktoken always does this, for all that it knows
        others = [token for token in vocab if len(token) > 1 and token not in rank_of and BYTE_OF.keys() >= set(token)]
        rank_of |= {token: rank + 1 + i for i, token in enumerate(others)}
    last_parts = {token: parts_before(token, rank_of) for token in rank_of}
    for token, parts in last_parts.items():
        if len(parts) == 2 and pair_rank.get(tuple(parts)) != rank_of[token]:
            raise ValueError(f"merging {token!r} from other pairs than {parts[0]!r} + {parts[1]!r}, as tiktoken would,")
        if len(parts) > 2 and not ignore_merges:  # `tokenizers` never makes it; tiktoken would, from a whole piece
            del rank_of[token]
    return BYTE_OF | rank_of


def parts_before(token: str, rank_of: dict[str, int]) -> list[str]:
    """What `token` consists of just before the join that makes it whole, or where no more joins are possible.

    >>> parts_before("abab", {"ab": 1, "ba": 2, "abab": 3}), parts_before("abc", {"ac": 1})
    (['ab', 'ab'], ['a', 'b', 'c'])
    """
    parts = list(token)
    while len(parts) > 2:
        ranks = [rank_of.get(left + right, NEVER) for left, right in pairwise(parts)]
        best = min(ranks)
        if best == NEVER:
            break
        i = ranks.index(best)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def check_added(added: list[dict], vocab: dict[str, int]) -> list[dict]:
    """The added tokens, as they are."""
    next_id = len(vocab)  # `tokenizers` ignores the ids of the file: it numbers what the vocabulary lacks from here on
    for token in added:
        content = token["content"]
        for flag in ("single_word", "lstrip", "rstrip"):  # these change what is matched around the content
            if token.get(flag):
                raise ValueError(f"added token {content!r} with {flag}")
        expected = vocab.get(content, next_id)
        if token["id"] != expected or not content:
            raise ValueError(f"added token {content!r} with id {token['id']} in place of {expected}")
        next_id += expected == next_id
    return added


def any_of(contents: Iterable[str]) -> re.Pattern:
    """A pattern for split() that matches the longest of `contents`, or nothing if there are none."""
    return re.compile(f"({'|'.join(map(re.escape, sorted(contents, key=len, reverse=True))) or '(?!)'})")


def begin_of_text(post_processor: dict | None) -> str | None:
    """The token that the file's post-processor would put in front of a text, such as Llama-3's <|begin_of_text|>."""
    bos = None
    for step in steps_of(post_processor):
        pieces = [(kind, piece["id"]) for item in step.get("single", []) for kind, piece in item.items()]
        kinds = [kind for kind, _ in pieces]
        if step["type"] == "TemplateProcessing" and kinds == ["SpecialToken", "Sequence"] and bos is None:
            bos = pieces[0][1]
        elif step["type"] != "ByteLevel" and kinds != ["Sequence"]:
            raise ValueError(f"post_processor {step['type']} that adds other tokens than one in front")
    return bos


def read_eos_ids(folder: Path, added: dict[str, int]) -> set[int]:
    """Ids that end a completion: of generation_config.json (chat models list several), config.json, or the eos_token."""
    for name in ("generation_config.json", "config.json"):
        eos = read_json(folder / name).get("eos_token_id")
        if eos is not None:
            eos = eos if isinstance(eos, list) else [eos]
            if not all(type(token) is int and token >= 0 for token in eos):
                raise ValueError(f"{folder / name}: eos_token_id {eos!r} is no token id, nor a list of them")
            return set(eos)
    eos = read_json(folder / "tokenizer_config.json").get("eos_token")
    eos = eos["content"] if isinstance(eos, dict) else eos
    return {added[eos]} if eos in added else set()


def read_json(file: Path) -> dict:
    try:
        return {} | json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (ValueError, TypeError, RecursionError) as error:  # TypeError: a list, or a number
        raise ValueError(f"{file}: is not a JSON object ({error}); fetch it again") from None
