"""What a `tokenizer.json` says, read so that tiktoken does exactly that; or a refusal that names what it cannot do.

The file describes byte-level BPE as parts: normalizer, pre_tokenizer, model (vocabulary and merges), added_tokens,
post_processor.  tiktoken knows a regex for the pieces and a rank for each token, and joins the neighbours of lowest rank:

    the pieces        one regex that finds what the pre-tokenizer's steps find                split_pattern
    the joins         ranks that lead to the joins of `merges`, and to no others              tiktoken_ranks, which says why
    all the rest      as it is done in tokenizer.py, or a ValueError                          check_parts, check_added

Every function takes a part of the file as it was parsed.  This file imports nothing local.
"""

import json
import re
from itertools import pairwise
from pathlib import Path

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
SPECIAL_TOKENS = [f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]
NEVER = 1 << 32  # a rank above every other


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


def added_in_settings(folder: Path, known: list[dict]) -> list[dict]:
    """Added tokens that only tokenizer_config.json names, by id; transformers adds them behind those of tokenizer.json."""
    file = folder / "tokenizer_config.json"
    more = read_json(file).get("added_tokens_decoder") or {}
    contents = {token["content"] for token in known}
    if not all(place.isdecimal() for place in more):
        raise ValueError(f"added_tokens_decoder of {file.name} with other names than ids")
    tokens = [{**token, "id": int(place)} for place, token in more.items() if token["content"] not in contents]
    return sorted(tokens, key=lambda token: token["id"])


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
            if not all(type(token) is int and 0 <= token < 2**31 for token in eos):
                raise ValueError(f"{folder / name}: eos_token_id {eos!r} is no token id, nor a list of them")
            return set(eos)
    eos = read_json(folder / "tokenizer_config.json").get("eos_token")
    eos = eos["content"] if isinstance(eos, dict) else eos
    return {added[eos]} if eos in added else set()


def read_chat_template(folder: Path) -> tuple[str | None, dict[str, str]]:
    """The model's chat template, None if it has none, and the special tokens that it may name: bos_token, eos_token, ..."""
    settings = read_json(folder / "tokenizer_config.json")
    template, file = settings.get("chat_template"), folder / "chat_template.jinja"
    if isinstance(template, list):  # several, with names
        template = {one["name"]: one["template"] for one in template}.get("default")
    if file.is_file():  # newer than the setting
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
        raise ValueError(f"{file}: is not a JSON object ({error}); fetch it again") from None
