"""tokenizer.py against recorded ids, against the `tokenizers` library itself, and on files that it must refuse."""

import copy
import doctest
import functools
import json
import random
import unicodedata
from pathlib import Path

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizer
from files import tokenizer_file

DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "tokenizers"
NAMES = ["gpt2", "qwen2", "qwen2.5", "qwen3", "smollm2"]
LLAMA3_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Characters that Python's own tables know: the NFC of later ones differs between libraries. Spaces, digits, accents,
# apostrophes, bytes that SmolLM2 lacks, and added tokens come often, because that is where splits go wrong.
TEXT = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=8),
        st.sampled_from(
            ["  ", " ", "\n", "\r\n", "\t", "\u3000", "7", "12345", "½", "٣", "'s", "'LL", "'ſ", "e\u0301", "한"]
        ),
        st.sampled_from(["\x04", "!\x04!", " \x06the", "\x1d ", "\U00040000", "hello", " world", "=", "\\frac{1}{2}"]),
        st.sampled_from(
            ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool_call>", "<think>", "<repo_name>", "<|x|>"]
        ),
    ),
    max_size=12,
).map("".join)


def write(folder: Path, spec: dict, **others: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"tokenizer": spec, **others}.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def published(name: str) -> dict:
    """The tokenizer.json of a model; Qwen2.5 and Qwen3 are Qwen2's with other added tokens."""
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not here: the published vocabularies are not part of the project")
    spec = json.loads(
        (DATA / (name if (DATA / name / "tokenizer.json").is_file() else "qwen2") / "tokenizer.json").read_text()
    )
    if (DATA / name / "added_tokens.json").is_file():
        spec["added_tokens"] = json.loads((DATA / name / "added_tokens.json").read_text())
    return spec


@pytest.fixture(scope="session")
def both(tmp_path_factory):
    """name -> (our tokenizer, the library's) over the same file."""

    @functools.cache
    def read(name):
        folder = write(tmp_path_factory.mktemp(name), published(name))
        return tokenizer.load(folder), tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))

    return read


def library_ids(library: tokenizers.Tokenizer, text: str) -> list[int]:
    return library.encode(text, add_special_tokens=False).ids


def llama3_like(ignore_merges: bool = True) -> dict:
    """A small BPE, trained by the library on made-up words, with Llama-3's settings."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=ignore_merges))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(LLAMA3_PATTERN), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.decoder = tokenizers.decoders.ByteLevel()
    chooser = random.Random(0)
    syllables = ["he", "llo", "wor", "ld", "tion", "é", "ing", "한", "12", "((", "\n", "'s"]
    words = ["".join(chooser.choices(syllables, k=chooser.randint(1, 4))) for _ in range(400)]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator([" ".join(words)], trainer)
    library.add_special_tokens(["<|begin_of_text|>", "<|eot_id|>"])
    begin = [("<|begin_of_text|>", library.token_to_id("<|begin_of_text|>"))]
    library.post_processor = tokenizers.processors.Sequence(
        [
            tokenizers.processors.ByteLevel(trim_offsets=False),
            tokenizers.processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=begin),
        ]
    )
    return json.loads(library.to_str())


def test_doctests():
    assert doctest.testmod(tokenizer).failed == 0


@pytest.mark.parametrize("name", NAMES)
def test_recorded_ids(name, both):
    """All 385 recorded strings. Those in which an added token is spelled out were recorded with it matched."""
    ours, _ = both(name)
    rows = [json.loads(line) for line in (DATA / name / "vectors.jsonl").read_text().splitlines()]
    assert len(rows) == 385
    assert [row["text"] for row in rows if ours.encode(row["text"], allow_added=True) != row["ids"]] == []
    plain = [row for row in rows if not any(content in row["text"] for content in ours._added)]
    assert len(plain) > 350
    assert [row["text"] for row in plain if ours.encode(row["text"]) != row["ids"]] == []


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_library_on_random_text(name, both):
    ours, library = both(name)

    @settings(max_examples=250, deadline=None, derandomize=True)
    @given(TEXT)
    def check(text):
        ids = library_ids(library, text)
        assert ours.encode(text, allow_added=True) == ids
        assert ours.decode(ids) == library.decode(ids, skip_special_tokens=False)
        assert ours.decode(ids, skip_special=True) == library.decode(ids, skip_special_tokens=True)
        normal = unicodedata.normalize("NFC", text) if name.startswith("qwen") else text
        if name != "smollm2":  # whose missing bytes are lost
            assert ours.decode(ours.encode(text)) == normal

    check()


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "smollm2"])
def test_splits_every_character_as_the_library_does(name, both):
    """Unicode classes differ between regex engines: every assigned character after a letter, a space and a digit."""
    ours, library = both(name)
    characters = [chr(code) for code in range(0x30000) if unicodedata.category(chr(code)) not in ("Cs", "Cn", "Co")]
    for start in range(0, len(characters), 2000):
        text = "".join(f"a{c} {c}1{c}'{c}  {c}" for c in characters[start : start + 2000 : 7])
        assert ours.encode(text) == library_ids(library, text)


def test_added_tokens_are_matched_only_when_asked(both):
    ours, _ = both("qwen3")
    assert ours.encode("<|im_start|>user", allow_added=True)[0] == ours.token_to_id("<|im_start|>") == 151644
    assert 151644 not in ours.encode("<|im_start|>user")
    assert ours.decode(ours.encode("<|im_start|>user")) == "<|im_start|>user"
    assert ours.token_to_id("user") is None
    assert ours.vocab_size == 151669


def test_normalized_added_tokens(tmp_path):
    """An added token marked `normalized` is looked for after NFC, the others before; of several, the longest wins."""
    spec = tokenizer.byte_level_file(["<e\u0301>", "<<", "<<<", "<é!>", "x<"])
    spec["normalizer"] = {"type": "NFC"}
    spec["added_tokens"][3]["normalized"] = spec["added_tokens"][4]["normalized"] = True
    ours = tokenizer.load(write(tmp_path, spec))
    library = tokenizers.Tokenizer.from_str(json.dumps(spec))
    for text in ["<e\u0301>", "<é>", "<é!>", "<e\u0301!>", "<<<<<<e\u0301>x", "a<e\u0301>\u0301<<<<", "x<<", "x<"]:
        assert ours.encode(text, allow_added=True) == library_ids(library, text), text
    assert ours.encode("<e\u0301!>", allow_added=True) == [259]


@pytest.mark.parametrize("ignore_merges", [True, False])
@pytest.mark.parametrize("pairs", [True, False], ids=["pairs", "strings"])
def test_llama3_like(tmp_path, ignore_merges, pairs):
    """Llama-3's settings, and a token that no merge makes: it counts where it is a whole piece, with ignore_merges."""
    spec = llama3_like(ignore_merges)
    spec["model"]["vocab"]["qwxyz"] = len(spec["model"]["vocab"])
    for token in spec["added_tokens"]:
        token["id"] += 1
    if not pairs:
        spec["model"]["merges"] = [" ".join(pair) for pair in spec["model"]["merges"]]
    ours = tokenizer.load(write(tmp_path, spec))
    library = tokenizers.Tokenizer.from_str(json.dumps(spec))
    assert ours.bos_id == ours.token_to_id("<|begin_of_text|>")
    assert (len(ours.encode("qwxyz")) == 1) == ignore_merges

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(
        st.lists(
            st.sampled_from(
                ["hello", "worldtion", " ", "qwxyz", "qwxyzz", "12345", "é", "\n", "<|eot_id|>", "((", "'S"]
            )
            | TEXT,
            max_size=8,
        ).map("".join)
    )
    def check(text):
        assert ours.encode(text, allow_added=True) == library_ids(library, text)

    check()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_any_merges_are_equal_or_refused(tmp_path_factory, data):
    """Made-up merges over three letters, most of them unlike what training gives: never ids that are not the library's."""
    spec = tokenizer.byte_level_file([])
    tokens, merges = ["a", "b", "c"], []
    for _ in range(data.draw(st.integers(1, 8))):
        merges.append([data.draw(st.sampled_from(tokens)), data.draw(st.sampled_from(tokens))])
        tokens.append("".join(merges[-1]))
    if data.draw(st.booleans()):
        merges = data.draw(st.permutations(merges))
    others = data.draw(
        st.permutations(sorted({*tokens[3:], *data.draw(st.lists(st.text("abc", min_size=2, max_size=5), max_size=2))}))
    )
    spec["model"]["vocab"] = tokenizer_file.BYTE_OF | {token: 256 + i for i, token in enumerate(others)}
    spec["model"] |= {"merges": merges, "ignore_merges": data.draw(st.booleans())}
    folder = write(tmp_path_factory.mktemp("merges"), spec)
    library = tokenizers.Tokenizer.from_str(json.dumps(spec))
    try:
        ours = tokenizer.load(folder)
    except ValueError:
        return
    chooser = random.Random(0)
    for _ in range(60):
        text = "".join(chooser.choices("abc", k=chooser.randint(1, 12)))
        assert ours.encode(text) == library_ids(library, text), (text, spec["model"]["merges"])


@pytest.mark.parametrize(
    ("merges", "text", "made"),
    [
        (["b c", "a b", "ab c", "a bc"], "abc", ["abc"]),  # as in Llama-3: every pair of a token, in a row
        (["b c", "a b", "c d", "ab cd"], "abcd", ["a", "bc", "d"]),  # "b c" comes first: "abcd" is never made
    ],
)
def test_merges_that_differ_from_what_training_gives(merges, text, made, tmp_path):
    spec = tokenizer.byte_level_file([])
    tokens = [*tokenizer_file.CHAR_OF, *dict.fromkeys(merge.replace(" ", "") for merge in merges)]
    spec["model"] |= {"vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}
    assert library_ids(tokenizers.Tokenizer.from_str(json.dumps(spec)), text) == [*map(tokens.index, made)]
    assert tokenizer.load(write(tmp_path, spec)).encode(text) == [*map(tokens.index, made)]


def test_added_tokens_may_be_in_the_vocabulary(tmp_path):
    spec = tokenizer.byte_level_file(["<|end|>"])
    spec["added_tokens"].insert(0, {**spec["added_tokens"][0], "id": 65, "content": "A"})
    ours = tokenizer.load(write(tmp_path, spec))
    assert ours.encode("A<|end|>", allow_added=True) == [65, 256]
    assert library_ids(tokenizers.Tokenizer.from_str(json.dumps(spec)), "A<|end|>") == [65, 256]


def test_added_tokens_that_only_the_settings_name(tmp_path):
    """As many fine-tuned folders have them: ids, text and templates are those of transformers, and a saved folder keeps them."""
    flags = dict(lstrip=False, rstrip=False, normalized=False, single_word=False)
    more = {
        "258": {"content": "<think>", "special": False, **flags},
        "257": {"content": "<|eot|>", "special": True, **flags},
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|eot|>", "added_tokens_decoder": more}
    folder = write(tmp_path / "a", tokenizer.byte_level_file(["<|end|>"]), tokenizer_config=settings)
    for where in (folder, tmp_path / "b"):
        ours, theirs = tokenizer.load(where), transformers.AutoTokenizer.from_pretrained(where)
        text = "a<think>b<|eot|><|end|>"
        assert ours.encode(text, allow_added=True) == theirs(text)["input_ids"] == [97, 258, 98, 257, 256]
        assert (
            ours.eos_ids == {257} and ours.vocab_size == 259 and ours.decode([258, 257], skip_special=True) == "<think>"
        )
        ours.save(tmp_path / "b")
    more["300"] = more.pop("258")
    with pytest.raises(ValueError, match="added token '<think>' with id 300 in place of 258"):
        tokenizer.load(write(tmp_path / "c", tokenizer.byte_level_file(["<|end|>"]), tokenizer_config=settings))


def test_ids_need_not_be_in_merge_order(tmp_path):
    spec = tokenizer.byte_level_file([])
    spec["model"]["merges"] = ["b c", "a b", "a bc"]
    ids = iter(range(1000))
    spec["model"]["vocab"] = {token: next(ids) for token in ["abc", "ab", *tokenizer_file.BYTE_OF, "bc"]}
    ours = tokenizer.load(write(tmp_path, spec))
    library = tokenizers.Tokenizer.from_str(json.dumps(spec))
    for text in ["abc", "ab", "bcab", "aabcc"]:
        assert ours.encode(text) == library_ids(library, text)
    assert ours.encode("abc") == [0]


def test_missing_bytes_are_dropped_inside_their_piece(both):
    ours, library = both("smollm2")
    assert ours.encode("!\x04!") == ours.encode("!!") == library_ids(library, "!\x04!")
    assert ours.encode("a\x04b") == ours.encode("a") + ours.encode("b") != ours.encode("ab")
    assert ours.encode("\x04") == []


def change(path: str, value: object):
    """An edit of a tokenizer.json: change("model.dropout", 0.1)."""

    def edit(spec):
        *parents, last = path.split(".")
        part = functools.reduce(lambda inner, key: inner[int(key) if key.isdigit() else key], parents, spec)
        part[last] = value

    return edit


SPLIT = {"type": "Split", "pattern": {"Regex": r"\p{L}+|\s+"}, "behavior": "Isolated", "invert": False}
NO_REGEX = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


REFUSED = {
    "model type WordPiece": change("model.type", "WordPiece"),
    "model type Unigram": change("model", {"type": "Unigram", "vocab": [["a", 0.0]]}),
    "model type None": change("model", None),
    "dropout = 0.1": change("model.dropout", 0.1),
    "byte_fallback = True": change("model.byte_fallback", True),
    "end_of_word_suffix = '</w>'": change("model.end_of_word_suffix", "</w>"),
    "ids are not 0, 1, 2": change("model.vocab.A", 70000),
    "a merge of 'A' and 'B'": change("model.merges", [["A", "B"]]),
    "normalizer {\"type\": \"NFKC\"}": change("normalizer", {"type": "NFKC"}),
    "decoder null": change("decoder", None),
    "\"add_prefix_space\": true": change("pre_tokenizer.add_prefix_space", True),
    "pre_tokenizer null": change("pre_tokenizer", None),
    "pre_tokenizer {\"type\": \"Whitespace\"}": change("pre_tokenizer", {"type": "Whitespace"}),
    "\"individual_digits\": false": change("pre_tokenizer", sequence({"type": "Digits", "individual_digits": False}, {**NO_REGEX, "use_regex": True})),
    "\"behavior\": \"Removed\"": change("pre_tokenizer", sequence({**SPLIT, "behavior": "Removed"}, NO_REGEX)),
    "\"invert\": true": change("pre_tokenizer", sequence({**SPLIT, "invert": True}, NO_REGEX)),
    "\"String\": \"x\"": change("pre_tokenizer", sequence({**SPLIT, "pattern": {"String": "x"}}, NO_REGEX)),
    "a+$": change("pre_tokenizer", sequence({**SPLIT, "pattern": {"Regex": "a+$|."}}, NO_REGEX)),
    "\"use_regex\": true": change("pre_tokenizer", sequence(SPLIT, {**NO_REGEX, "use_regex": True})),
    "post_processor RobertaProcessing": change("post_processor", {"type": "RobertaProcessing"}),
    "added token '<|end|>' with lstrip": change("added_tokens.0.lstrip", True),
    "added token '<|end|>' with rstrip": change("added_tokens.0.rstrip", True),
    "added token '<|end|>' with single_word": change("added_tokens.0.single_word", True),
    "added token '<|end|>' with id 300": change("added_tokens.0.id", 300),
}  # fmt: skip


@pytest.mark.parametrize("problem", REFUSED)
def test_refuses_in_one_line_that_names_the_file(problem, tmp_path):
    spec = copy.deepcopy(tokenizer.byte_level_file(["<|end|>"]))
    REFUSED[problem](spec)
    with pytest.raises(ValueError) as refusal:
        tokenizer.load(write(tmp_path, spec))
    message = str(refusal.value)
    assert problem in message
    assert message.startswith(str(tmp_path / "tokenizer.json"))
    assert "use a model with byte-level BPE" in message
    assert "\n" not in message


def test_refuses_a_template_that_ends_the_text(tmp_path):
    library = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.byte_level_file(["<|end|>"])))
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", 256)]
    )
    with pytest.raises(ValueError, match="post_processor TemplateProcessing"):
        tokenizer.load(write(tmp_path, json.loads(library.to_str())))


@pytest.mark.parametrize(("setting", "value"), [("ignore_merges", True), ("unk_token", "A")])
def test_some_settings_need_every_byte(setting, value, tmp_path):
    spec = tokenizer.byte_level_file([])
    spec["model"][setting] = value
    assert tokenizer.load(write(tmp_path, spec)).encode("A") == [65]
    spec["model"]["vocab"] = {char: i for i, char in enumerate(tokenizer_file.CHAR_OF[:255])}
    with pytest.raises(ValueError, match=f"{setting} = .* with single bytes missing"):
        tokenizer.load(write(tmp_path, spec))


def test_text_between_two_matches_is_a_piece(tmp_path):
    """A pattern need not cover the text: `tokenizers` keeps what lies between."""
    spec = tokenizer.byte_level_file([])
    spec["pre_tokenizer"] = sequence(SPLIT, NO_REGEX)
    spec["model"]["vocab"] = tokenizer_file.BYTE_OF | {"1!": 256, "!1": 257}
    spec["model"]["merges"] = ["1 !", "! 1"]
    ours = tokenizer.load(write(tmp_path, spec))
    library = tokenizers.Tokenizer.from_str(json.dumps(spec))
    for text in ["ab1!1 !1", "1!1", "a!!1b1!"]:
        assert ours.encode(text) == library_ids(library, text)
        assert ours.decode(ours.encode(text)) == text


def test_missing_files_and_bad_json(tmp_path):
    with pytest.raises(FileNotFoundError, match="it has no tokenizer.json"):
        tokenizer.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        tokenizer.load(tmp_path / "absent")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="tokenizer.json: is not a JSON object"):
        tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "part, odd", [("model", 0.5), ("post_processor", {"a": 1}), ("pre_tokenizer", [1]), ("added_tokens", [{}])]
)
def test_a_file_whose_parts_are_something_else_is_refused(tmp_path, part, odd):
    spec = json.loads((Path(__file__).resolve().parent.parent / "models/countdown" / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec | {part: odd}))
    with pytest.raises(ValueError, match="tokenizer.json: "):
        tokenizer.load(tmp_path)


def test_hub_id_asks_for_the_small_files(tmp_path, monkeypatch):
    import huggingface_hub

    asked = {}
    folder = write(tmp_path, tokenizer.byte_level_file(["<|end|>"]))
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **more: asked.update(more, name=name) or str(folder)
    )
    assert tokenizer.load("someone/model").vocab_size == 257
    assert asked["name"] == "someone/model" and asked["revision"] is None
    assert set(asked["allow_patterns"]) == {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
    }
    tokenizer.load("someone/model@refs/pr/1")
    assert asked["name"] == "someone/model" and asked["revision"] == "refs/pr/1"
    asked.clear()
    with pytest.raises(FileNotFoundError, match="someone/model@: no revision after the @"):
        tokenizer.load("someone/model@")
    write(tmp_path / "me@home", tokenizer.byte_level_file([]))
    assert tokenizer.load(tmp_path / "me@home").vocab_size == 256 and not asked


def test_eos_ids_sources(tmp_path):
    spec = tokenizer.byte_level_file(["<|end|>", "<|stop|>"])
    tokens = {"tokenizer_config": {"eos_token": "<|end|>"}}
    one = {"config": {"eos_token_id": 257}}
    chat = {"generation_config": {"eos_token_id": [256, 257]}}
    assert tokenizer.load(write(tmp_path / "none", spec)).eos_ids == set()
    assert tokenizer.load(write(tmp_path / "a", spec, **tokens)).eos_ids == {256}
    assert tokenizer.load(
        write(tmp_path / "b", spec, tokenizer_config={"eos_token": {"content": "<|stop|>"}})
    ).eos_ids == {257}
    assert tokenizer.load(write(tmp_path / "c", spec, **tokens, **one)).eos_ids == {257}
    assert tokenizer.load(write(tmp_path / "d", spec, **tokens, **one, **chat)).eos_ids == {256, 257}
    assert tokenizer.load(write(tmp_path / "e", spec, **tokens, **one, generation_config={})).eos_ids == {257}


@pytest.mark.parametrize("odd", [-1, 2**70, [256, 2**31], "256", True, [1.0]])
def test_ends_that_are_no_token_ids_are_refused(odd, tmp_path):
    folder = write(tmp_path / "a", tokenizer.byte_level_file([]), generation_config={"eos_token_id": odd})
    with pytest.raises(ValueError, match="generation_config.json: eos_token_id .* must be a token id"):
        tokenizer.load(folder)


def test_half_a_surrogate_pair_is_replaced(tmp_path):
    ours = tokenizer.load(write(tmp_path, tokenizer.byte_level_file([])))
    assert ours.decode(ours.encode("a\ud800b")) == "a\ufffdb"
    assert ours.decode(ours.encode("\ud83d\ude00")) == "😀"


def test_decode_of_parts_and_of_padding(both):
    ours, _ = both("qwen3")
    ids = ours.encode("𓀀")
    assert len(ids) > 1
    assert b"".join(map(ours.token_bytes, ids)).decode() == "𓀀"
    assert "\ufffd" in ours.decode(ids[:1])
    assert ours.decode([*ids, 151935]) == "𓀀"  # a row of Qwen3's embedding without a token


def test_save_keeps_the_files_byte_for_byte(tmp_path):
    folder = write(tmp_path / "a", tokenizer.byte_level_file(["<|end|>"]), tokenizer_config={"eos_token": "<|end|>"})
    (folder / "tokenizer.json").write_text(
        json.dumps(tokenizer.byte_level_file(["<|end|>"]), indent=3) + "\r\n", newline=""
    )
    (folder / "chat_template.jinja").write_text("{{ messages }}\r\n", newline="")
    tokenizer.load(folder).save(tmp_path / "new" / "b")
    names = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {file.name for file in (tmp_path / "new" / "b").iterdir()} == names
    for file in folder.iterdir():
        assert (tmp_path / "new" / "b" / file.name).read_bytes() == file.read_bytes()


def test_a_saved_tokenizer_is_read_by_transformers_as_it_stands(tmp_path):
    """Also where the folder came without a tokenizer_config.json: a Qwen model does not split digits, this file does."""
    transformers = pytest.importorskip("transformers")
    spec = tokenizer.byte_level_file([])
    spec["pre_tokenizer"] = sequence({"type": "Digits", "individual_digits": True}, spec["pre_tokenizer"])
    spec["model"]["vocab"], spec["model"]["merges"] = tokenizer_file.BYTE_OF | {"12": 256}, ["1 2"]
    spec["added_tokens"] = tokenizer.byte_level_file(["<|end|>"])["added_tokens"]
    spec["added_tokens"][0]["id"] = 257
    config = {"model_type": "qwen3", "eos_token_id": 257}
    ours = tokenizer.load(write(tmp_path / "a", spec, config=config))
    ours.save(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_bytes((tmp_path / "a" / "config.json").read_bytes())
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
    text = "a12 e\u0301 12"
    assert theirs(text)["input_ids"] == ours.encode(text) and 256 not in ours.encode(text)
    assert theirs.eos_token_id == 257 and tokenizer.load(tmp_path / "b").eos_ids == {257}


def test_byte_level_file_reads_the_same_everywhere(tmp_path):
    transformers = pytest.importorskip("transformers")
    spec = tokenizer.byte_level_file(["<|end|>", "<|pad|>"])
    folder = write(
        tmp_path, spec, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    )
    ours = tokenizer.load(folder)
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.eos_token_id == 256
    assert len(theirs) == ours.vocab_size == 258

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(st.lists(TEXT | st.sampled_from(["<|end|>", "<|pad|>"]), max_size=4).map("".join))
    def check(text):
        ids = ours.encode(text, allow_added=True)
        assert ids == library_ids(library, text) == theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(ids) == library.decode(ids, skip_special_tokens=False) == text
        assert ours.encode(text) == list(text.encode())

    check()


def test_endless_white_space_is_refused_and_long_texts_are_not(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer.byte_level_file([])))
    vocabulary = tokenizer.load(tmp_path)
    assert len(vocabulary.encode("a " * 100_000 + " " * 50_000)) == 250_000
    with pytest.raises(ValueError, match="white-space"):
        vocabulary.encode("x" + "\n" * 100_000)
