"""Translate a `tokenizer.json` for tiktoken, exactly.  A ValueError names what tiktoken cannot represent.

The file describes byte-level BPE as parts: normalizer, pre_tokenizer, model (vocabulary and merges), added_tokens,
post_processor.  tiktoken takes a regex for the pieces and a rank for each token, and joins the neighbours of lowest rank:

    pieces        one regex that finds the pieces of the pre-tokenizer's steps                split_pattern
    joins         ranks that give the joins of `merges`, and no others                        tiktoken_ranks
    the rest      tokenizer.py does it, or a ValueError                                       check_parts, check_added

Every function takes a parsed part of the file.  This file imports nothing local.
"""

import json
import re
from itertools import pairwise
from pathlib import Path

# The split of a ByteLevel pre-tokenizer without a regex of its own.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# "Digits" first splits off each digit, and GPT2_PATTERN then sees only the text between digits. In one regex: a digit is a
# piece, and `(?!\S)`, "no more text follows", is also true before a digit.
DIGITS_PATTERN = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
# Syntax that the regex engines of `tokenizers` and tiktoken may read differently: ^ and $ in lines, \h, x{2}+, (?m), ...
UNSAFE_SYNTAX = re.compile(r"\$|(?<!\[)\^|\d\}\+|\\[^rntsSpP\\'/.-]|\(\?[^i:!=]|&&|\[\[")
# The printable character that stands for each byte in a tokenizer.json: itself, or one from U+0100 on ("Ġ" is a space).
PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
UNPRINTABLE = [byte for byte in range(256) if byte not in PRINTABLE]
CHAR_OF = [chr(byte if byte in PRINTABLE else 256 + UNPRINTABLE.index(byte)) for byte in range(256)]
BYTE_OF = {char: byte for byte, char in enumerate(CHAR_OF)}
SPECIAL_TOKENS = [f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]
NEVER = 1 << 32  # a rank above every other


def spelled_bytes(token: str) -> bytes:
    """
    >>> spelled_bytes("Ġhi"), spelled_bytes("▁")  # the second is not in the alphabet: an added token, taken as text
    (b' hi', b'\\xe2\\x96\\x81')
    """
    return bytes(BYTE_OF[char] for char in token) if BYTE_OF.keys() >= set(token) else token.encode()


def steps_of(part: dict | None) -> list[dict]:
    """The steps of a part of the file: none, one, or those of a Sequence, under "normalizers", "decoders", ..."""
    if part is None or part["type"] != "Sequence":
        return [part] if part else []
    return next(steps for key, steps in part.items() if key != "type")


def check_parts(spec: dict) -> None:
    """ValueError: a setting changes ids or text in a way that is not implemented here."""
    model = spec.get("model") or {}
    if model.get("type") != "BPE":
        raise ValueError(f"model type {model.get('type')}")
    for setting in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(setting):
            raise ValueError(f"model setting {setting} = {model[setting]!r}")
    if sorted(model["vocab"].values()) != list(range(len(model["vocab"]))):
        raise ValueError("a vocabulary whose ids are not 0, 1, 2, ...")
    for setting in ("ignore_merges", "unk_token"):  # an unknown token cannot occur if every byte has a token
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
            # `tokenizers` makes a piece of the text between two matches. tiktoken would lose it.
            return rf"{pattern}|(?:(?!{pattern})[\s\S])+"
    raise ValueError(f"pre_tokenizer {json.dumps(pre_tokenizer)}")


def tiktoken_ranks(vocab: dict[str, int], merges: list, ignore_merges: bool) -> dict[str, int]:
    """Token -> rank, the 256 bytes first. With these ranks tiktoken makes only the joins of `merges` ("a b" or ["a", "b"]).

    The file lists the pairs that may be joined. tiktoken joins any two neighbours that make a token, lowest rank first.
    Until something joins across a token's ends, its bytes join as they would alone. So it suffices to test each token
    alone, one join before it is whole. If two parts are left and the file lists them as a pair at this rank, both agree
    on every text. If more than two are left, joining never makes this token.

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
        if token != previous:  # Llama-3 lists all pairs that make a token, one after the other, with one rank
            rank, previous = rank + 1, token
        rank_of.setdefault(token, rank)
        pair_rank[left, right] = rank
    if ignore_merges:  # a piece that is a token is not split: tiktoken always does this for tokens with a rank
        others = [token for token in vocab if len(token) > 1 and token not in rank_of and BYTE_OF.keys() >= set(token)]
        rank_of |= {token: rank + 1 + i for i, token in enumerate(others)}
    last_parts = {token: parts_before(token, rank_of) for token in rank_of}
    for token, parts in last_parts.items():
        if len(parts) == 2 and pair_rank.get(tuple(parts)) != rank_of[token]:
            raise ValueError(f"merging {token!r} from other pairs than {parts[0]!r} + {parts[1]!r}, as tiktoken would,")
        if len(parts) > 2 and not ignore_merges:  # `tokenizers` never makes it, but tiktoken would for a whole piece
            del rank_of[token]
    return BYTE_OF | rank_of


def parts_before(token: str, rank_of: dict[str, int]) -> list[str]:
    """The parts of `token` just before the join that makes it whole, or when no more joins are possible.

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
    """The added tokens. ValueError: one has an id or a flag that is not implemented here."""
    next_id = len(vocab)  # `tokenizers` ignores the ids in the file, and numbers new tokens from here on
    for token in added:
        content = token["content"]
        for flag in ("single_word", "lstrip", "rstrip"):  # these change the match around the content
            if token.get(flag):
                raise ValueError(f"added token {content!r} with {flag}")
        expected = vocab.get(content, next_id)
        if token["id"] != expected or not content:
            raise ValueError(f"added token {content!r} with id {token['id']} in place of {expected}")
        next_id += expected == next_id
    return added


def added_in_settings(folder: Path, known: list[dict]) -> list[dict]:
    """Added tokens that only tokenizer_config.json names, sorted by id. transformers adds them after those of tokenizer.json."""
    file = folder / "tokenizer_config.json"
    more = read_json(file).get("added_tokens_decoder") or {}
    contents = {token["content"] for token in known}
    if not all(place.isdecimal() for place in more):
        raise ValueError(f"added_tokens_decoder of {file.name} with other names than ids")
    tokens = [{**token, "id": int(place)} for place, token in more.items() if token["content"] not in contents]
    return sorted(tokens, key=lambda token: token["id"])


def begin_of_text(post_processor: dict | None) -> str | None:
    """The token that the file's post-processor puts before a text, such as Llama-3's <|begin_of_text|>."""
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
    """Ids that end a completion, from generation_config.json, else config.json, else the eos_token. Chat models have several."""
    for name in ("generation_config.json", "config.json"):
        eos = read_json(folder / name).get("eos_token_id")
        if eos is not None:
            eos = eos if isinstance(eos, list) else [eos]
            if not all(type(token) is int and 0 <= token < 2**31 for token in eos):
                raise ValueError(f"{folder / name}: eos_token_id {eos!r} must be a token id or a list of token ids")
            return set(eos)
    eos = read_json(folder / "tokenizer_config.json").get("eos_token")
    eos = eos["content"] if isinstance(eos, dict) else eos
    return {added[eos]} if eos in added else set()


def read_chat_template(folder: Path) -> tuple[str | None, dict[str, str]]:
    """The model's chat template, or None, and the special tokens that it may use: bos_token, eos_token, ..."""
    settings = read_json(folder / "tokenizer_config.json")
    template, file = settings.get("chat_template"), folder / "chat_template.jinja"
    if isinstance(template, list):  # several, with names
        template = {one["name"]: one["template"] for one in template}.get("default")
    if file.is_file():  # newer than the setting, and wins
        template = file.read_text(encoding="utf-8")
    if template is not None and not isinstance(template, str):
        raise ValueError(f"{folder / 'tokenizer_config.json'}: chat_template is not text")
    tokens = {name: settings.get(name) for name in SPECIAL_TOKENS}
    tokens = {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
    return template, {name: token for name, token in tokens.items() if token is not None}


def read_json(file: Path) -> dict:
    try:
        return {} | json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (ValueError, TypeError, RecursionError) as error:  # TypeError: a list, or a number
        raise ValueError(f"{file}: is not a JSON object ({error}); download it again") from None
