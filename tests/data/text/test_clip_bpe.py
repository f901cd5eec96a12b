"""CLIP's tokenizer on a small vocabulary, and on the published one where it is at hand.

Ids of the small one: 256 letters, the same ending a word, the merges, start and end.
"""

import gzip
import hashlib
import importlib.util
import itertools
import json
import os
from pathlib import Path
import sys

from hypothesis import given, strategies as st
import numpy as np
import pytest
from tokenizers import pre_tokenizers

from vtp_eqx.data.text import clip_bpe, clip_vocabulary
from vtp_eqx.data.text.clip_bpe import clean, clip_tokenizer, tokenizer_from_merges
from vtp_eqx.data.text.clip_vocabulary import VARIABLE


MERGES = [
    ("t", "h"),
    ("th", "e</w>"),
    ("o", "n"),
    ("e", "r</w>"),
    ("l", "o"),
    ("o", "w</w>"),
    ("Ã", "©"),  # the two bytes of é
    ("lo", "w</w>"),
]
START, END = 512 + len(MERGES), 513 + len(MERGES)
GOLDEN = Path(__file__).parents[2] / "golden" / "clip_bpe" / "cases.json"
needs_ftfy = pytest.mark.skipif(
    importlib.util.find_spec("ftfy") is None, reason="ftfy is not installed"
)


@pytest.fixture(scope="module")
def words():
    return tokenizer_from_merges(MERGES)


def letter(letters: str) -> list[int]:
    """Ids of ASCII letters within a word."""
    return [ord(one) - ord("!") for one in letters]


def last(one: str) -> int:
    """The id of an ASCII letter that ends a word."""
    return 256 + ord(one) - ord("!")


def ids(words, text: str) -> list[int]:
    """The ids between start and end."""
    [row] = words.encode([text], 512)
    assert row[0] == START
    length = row.argmax()
    assert row[length] == END
    assert not row[length + 1 :].any()
    return row[1:length].tolist()


def merged(word: str) -> list[str]:
    """Byte-pair encoding as its paper has it: the best pair anywhere, until none is."""
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False)
    [(written, _)] = alphabet.pre_tokenize_str(word)
    tokens = [*written[:-1], written[-1] + "</w>"]
    while pairs := [pair for pair in itertools.pairwise(tokens) if pair in MERGES]:
        best = min(pairs, key=MERGES.index)
        at = list(itertools.pairwise(tokens)).index(best)
        tokens[at : at + 2] = ["".join(best)]
    return tokens


def test_words_are_merged_by_rank(words):
    assert words.vocabulary == END + 1
    low, the = 512 + 7, 512 + 1
    assert ids(words, "the low") == [the, low]
    # "lo" outranks "ow</w>" and "low</w>", and "th" needs "e" at the end for "the".
    assert ids(words, "lower then") == [
        *[516, *letter("w"), 515],
        *[512, *letter("e"), last("n")],
    ]


@given(word=st.text(alphabet="theronlw", min_size=1, max_size=12))
def test_merging_agrees_with_the_definition(words, word):
    expected = [words.pieces.token_to_id(token) for token in merged(word)]
    assert ids(words, word) == expected


def split(text: str) -> str:
    """The words of a text, with spaces between them."""
    plain = tokenizer_from_merges([])
    [found] = plain.decode(plain.encode([text], 512))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab-c", "ab - c"),
        ("a_b", "a _ b"),
        ("ab!?c", "ab !? c"),
        ("x12", "x 1 2"),
        ("3.14", "3 . 1 4"),
        ("it's I'M", "it 's i 'm"),
        ("they'LL've", "they 'll 've"),
        ("don't you'd we're", "don 't you 'd we 're"),
        ("o'clock", "o ' clock"),
        ("a''s", "a '' s"),
        ("<|endoftext|>", "<| endoftext |>"),
        ("", ""),
    ],
)
def test_a_word_is_letters_or_a_digit_or_a_contraction_or_the_rest(text, expected):
    assert split(text) == expected


@needs_ftfy
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x²½Ⅷ٣", "x ² ½ ⅷ ٣"),
        ("中文一", "中文一"),
        ("हिन्दी", "ह ि न ् द ी"),
        ("é😀🚀!", "é 😀🚀!"),
        ("it'\u017f <\u017ftart_of_text>", "it '\u017f <\u017ftart_of_text>"),
        ("b\u0345c", "b c"),
    ],
)
def test_letters_and_digits_are_those_of_unicode(text, expected):
    assert split(text) == expected


@needs_ftfy
@given(text=st.text(max_size=20))
def test_any_text_comes_back_but_for_spaces(words, text):
    kept = clean(text).replace("\u0345", "").replace(" ", "")
    assert "".join(words.decode(words.encode([text], 512))).replace(" ", "") == kept


def test_a_word_has_the_same_ids_wherever_it_stands(words):
    alone = ids(words, "lower")
    assert ids(words, "the lower, lower") == [513, *alone, last(","), *alone]


@pytest.mark.parametrize("text", ["<end_of_text>", "A<END_OF_TEXT>", "a <end_of_text>"])
def test_an_end_token_spelled_out_is_an_end_token_as_published(words, text):
    [row] = words.encode([text], 8)
    assert (row == END).sum() == 2
    [row] = words.encode([text.lower().replace("end", "start")], 8)
    assert (row == START).sum() == 2


def test_an_end_token_within_other_signs_is_only_signs(words):
    [row] = words.encode(["!<end_of_text>"], 32)
    assert (row == END).sum() == 1
    assert split("!<end_of_text>") == "!< end _ of _ text >"


def test_a_long_text_loses_its_last_tokens_and_keeps_the_end(words):
    whole = words.encode(["the " * 30], 32)[0]
    cut = words.encode(["the " * 30], 6)[0]
    assert whole.tolist() == [START, *[513] * 30, END]
    assert cut.tolist() == [START, *[513] * 4, END]
    assert cut.dtype == np.int32
    assert words.encode(["the " * 76]).shape == (1, 77)
    with pytest.raises(ValueError, match="must fit into 6 tokens; got 32"):
        words.encode(["the " * 30], 6, truncate=False)
    with pytest.raises(ValueError, match="start and the end"):
        words.encode(["the"], 1)


def test_no_texts_are_no_rows(words):
    assert words.encode([]).shape == (0, 77)
    assert words.decode(words.encode([])) == []


@needs_ftfy
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  A\tPhoto\r\n\x0c of\u2003this\x0b ", "a photo of this"),
        ("&amp;lt;B&gt; R&amp;D", "<b> r&d"),
        ("&amp;amp;amp;lt;", "<"),  # ftfy unescapes to the end
        ("<i> &amp;amp;amp;lt;", "<i> &amp;lt;"),  # but not where there are tags
        ("caf\u00c3\u00a9", "café"),
        ("\u00e2\u0153\u201d No problems", "✔ no problems"),
        ("\u2018it\u2019s\u201d", "'it's\""),
        ("\uff26\uff35\uff2c\uff2c\ufb01", "fullfi"),
        ("e\u0301", "é"),
        ("\x1b[36mred\x1b[0m\x00", "red"),
        ("\ud83d\ude00\ud800", "😀\ufffd"),
        ("ΑΣ İ", "ας i\u0307"),
    ],
)
def test_text_is_repaired_unescaped_and_in_lower_case(text, expected):
    assert clean(text) == expected


@needs_ftfy
@given(text=st.text(st.sampled_from("aB1 &#;<x\t\n\r\x0c\x0b'\"~é"), max_size=12))
def test_what_skips_ftfy_is_what_ftfy_leaves_alone(text):
    import ftfy

    if clip_bpe._PLAIN.fullmatch(text):
        assert ftfy.fix_text(text).split() == text.split()


def test_plain_text_needs_no_ftfy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    assert clean("A \tphoto\r\nof B & C; AT&T #1 ~") == "a photo of b & c; at&t #1 ~"


@pytest.mark.parametrize(
    "text", ["é", "😀", "&eacute;", "&#233;", "a\x1b[1mb", "a\x0bb", "a\x7f", "\x00"]
)
def test_without_ftfy_a_text_it_might_change_is_an_error(text, monkeypatch, words):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(ImportError, match=r"not plain ASCII.*vtp_eqx\[text\]"):
        words.encode(["plain", text], 77)


def test_the_header_and_what_follows_the_last_merge_are_no_merges(
    monkeypatch, tmp_path, words
):
    lines = ["#version", *map(" ".join, MERGES), "a b", "c d", ""]
    content = gzip.compress("\n".join(lines).encode())
    (tmp_path / "small.gz").write_bytes(content)
    monkeypatch.setattr(clip_bpe, "NUM_MERGES", len(MERGES))
    monkeypatch.setattr(clip_vocabulary, "SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setenv(VARIABLE, str(tmp_path / "small.gz"))
    small = clip_tokenizer()
    assert small.pieces.to_str() == words.pieces.to_str()


@needs_ftfy
@pytest.mark.skipif(
    not os.environ.get(VARIABLE) and importlib.util.find_spec("open_clip") is None,
    reason=f"no published vocabulary: set {VARIABLE} to its path or install open_clip",
)
def test_the_published_vocabulary_gives_the_published_ids():
    cases = json.loads(GOLDEN.read_text(encoding="utf-8"))
    published = clip_tokenizer()
    assert published.vocabulary == 49408
    found = published.encode([case["text"] for case in cases])
    np.testing.assert_array_equal(found, [case["ids"] for case in cases])
