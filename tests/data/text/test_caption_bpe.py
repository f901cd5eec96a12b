from hypothesis import given, strategies as st
import numpy as np
import pytest
from tokenizers import models, Tokenizer

from vtp_eqx.data.text.caption_bpe import (
    CaptionTokenizer,
    clean,
    END,
    PAD,
    START,
    train_tokenizer,
)


TEXTS = ["a red star on the left", "a blue circle", "the red circle, at the top"] * 4


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(TEXTS, 320)


def _ends(ids):
    return ids.argmax(axis=1)


@given(text=st.text(max_size=20))
def test_any_text_comes_back(words, text):
    ids = words.encode([text], 128)
    assert words.decode(ids) == [clean(text)]


@given(text=st.text(max_size=20), context=st.sampled_from([2, 5, 12]))
def test_the_end_token_has_the_largest_id_even_when_cut(words, text, context):
    [row] = words.encode([text], context, truncate=True)
    end = row.argmax()
    assert row[0] == words.pieces.token_to_id(START)
    assert row[end] == words.pieces.token_to_id(END) == words.vocabulary - 1
    assert (row[:end] > 0).all()
    assert (row[end + 1 :] == 0).all()
    assert (row == row[end]).sum() == 1


def test_a_cut_keeps_the_first_words(words):
    whole, cut = (
        words.encode(TEXTS[:1], 16)[0],
        words.encode(TEXTS[:1], 4, truncate=True),
    )
    np.testing.assert_array_equal(cut[0, :3], whole[:3])
    assert cut[0, 3] == words.vocabulary - 1


def test_a_text_longer_than_the_context_is_an_error_naming_it(words):
    with pytest.raises(ValueError, match=r"a red star on the left.*truncate=True"):
        words.encode(TEXTS, 4)


def test_a_context_without_room_for_both_ends_is_an_error(words):
    with pytest.raises(ValueError, match="start and the end"):
        words.encode(TEXTS, 1)


@pytest.mark.parametrize("token", [PAD, START, END, "<|end<|endoftext|>oftext|>"])
def test_special_tokens_in_a_caption_are_only_letters_to_remove(words, token):
    plain = words.encode(["a red star"], 16)
    np.testing.assert_array_equal(words.encode([f"a {token} red star"], 16), plain)
    np.testing.assert_array_equal(words.encode([f"A{token} RED star"], 16), plain)


def test_a_word_has_the_same_ids_wherever_it_stands(words):
    one, two = words.encode(["red star", "star red"], 8)
    assert set(one) == set(two)


def test_a_vocabulary_survives_the_disk(words, tmp_path):
    words.save(tmp_path / "words.json")
    loaded = CaptionTokenizer.load(tmp_path / "words.json")
    assert loaded.vocabulary == words.vocabulary
    np.testing.assert_array_equal(loaded.encode(TEXTS, 24), words.encode(TEXTS, 24))
    assert [path.name for path in tmp_path.iterdir()] == ["words.json"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:1000],
        lambda content: content.decode().encode("utf-16"),
        lambda content: content.replace(b"<|pad|>", b"<|p\xe9d|>"),
    ],
)
def test_a_damaged_vocabulary_is_refused(damage, words, tmp_path):
    path = tmp_path / "words.json"
    words.save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="not a complete caption vocabulary"):
        CaptionTokenizer.load(path)


def test_a_vocabulary_that_does_not_end_with_the_end_token_is_refused():
    with pytest.raises(ValueError, match="begins with"):
        CaptionTokenizer(Tokenizer(models.BPE()))


def test_a_vocabulary_without_room_for_all_bytes_is_refused():
    with pytest.raises(ValueError, match="259 tokens or more; got 100"):
        train_tokenizer(TEXTS, 100)
