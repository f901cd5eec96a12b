import contextlib
import io
import itertools
import tarfile

import numpy as np
import pytest

from vtp_eqx.config import CLIP_VOCABULARY, TextConfig
from vtp_eqx.data.bad_examples import read_bad_examples
from vtp_eqx.data.images import UnreadableImageError
from vtp_eqx.data.mixture import make_sampler
from vtp_eqx.data.prefetch import ExampleReader
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.data.text.caption_bpe import train_tokenizer
from vtp_eqx.data.text.prompt_templates import IMAGENET_TEMPLATES
from vtp_eqx.runs.batches import ArrayBatches, Batches, open_sources, random_examples
from vtp_eqx.runs.captions import (
    caption_encoder,
    encode_class_prompts,
    text_tokenizer_for,
)
from vtp_eqx.scenes.render import SceneConfig
from vtp_eqx.scenes.tfds_builder import prepare_scenes


TEXT = TextConfig(context=6, vocabulary=300, width=8, depth=1, num_heads=2)
WORDS = train_tokenizer(["a wall"], 300)
COLORS = ("red", "green", "blue", "gray")


def captioned(count):
    """Images whose first pixel is their row, and captions that tell a color."""
    image = np.zeros((count, 16, 16, 3), np.uint8)
    image[:] = np.arange(count)[:, None, None, None]
    captions = np.array([f"a {COLORS[row % 4]} wall" for row in range(count)])
    return ArraySource({"image": image, "caption": captions, "label": np.arange(count)})


def test_batches_continue_from_any_number(tmp_path):
    source = captioned(40)
    words = text_tokenizer_for(TEXT, source, tmp_path / "words.json")
    sampler = make_sampler(source, 8, seed=3)
    reader = ExampleReader(
        source=source, sampler=sampler, size=16, encode=caption_encoder(words, TEXT)
    )
    feed = Batches(reader=reader, folder=tmp_path, workers=2)
    batches = feed(0)
    first, second, third = (next(batches) for _ in range(3))
    batches.close()
    assert first.image.shape == (8, 16, 16, 3)
    np.testing.assert_array_equal(third.image[:, 0, 0, 0], feed.rows(2))
    resumed = feed(2)
    again = next(resumed)
    resumed.close()
    np.testing.assert_array_equal(again.image, third.image)
    np.testing.assert_array_equal(again.caption, third.caption)
    assert not np.array_equal(first.image, second.image)


def test_steps_that_fewer_processes_do_again_are_logged_once(tmp_path, monkeypatch):
    class Holes(ArraySource):
        """Every fourth example is unreadable."""

        def __getitem__(self, row):
            if row % 4 == 0:
                raise UnreadableImageError(f"row {row}", "cut")
            return super().__getitem__(row)

    source = Holes(captioned(80).arrays)
    reader = ExampleReader(
        source=source, sampler=make_sampler(source, 8, seed=3), size=16
    )

    def run(folder, first, last, count):
        feed = Batches(reader=reader, folder=folder, workers=1, max_skip_rate=1.0)
        monkeypatch.setattr("jax.process_count", lambda: count)
        for index in range(count):
            monkeypatch.setattr("jax.process_index", lambda index=index: index)
            with contextlib.closing(feed(first)) as batches:
                for _ in range(first, last):
                    next(batches)

    def logged(folder):
        paths = folder.glob("bad_examples-*.jsonl")
        found = [bad for path in paths for bad in read_bad_examples(path)]
        return sorted((bad.step, bad.position) for bad in found)

    run(tmp_path / "never stopped", 0, 10, 1)
    again = tmp_path / "again"
    for first, last, count in ((0, 8, 4), (5, 7, 2), (3, 10, 1)):
        run(again, first, last, count)
    assert len(logged(again)) == 20
    assert logged(again) == logged(tmp_path / "never stopped")


def test_words_are_learned_once(tmp_path):
    path = tmp_path / "words.json"
    words = text_tokenizer_for(TEXT, captioned(8), path)
    words.save(path)
    again = text_tokenizer_for(TEXT, captioned(40), path)
    assert again.pieces.to_str() == words.pieces.to_str()
    ids = caption_encoder(again, TEXT)(["a red wall", "a wall " * 20])
    np.testing.assert_array_equal(ids[:1], words.encode(["a red wall"], 6))
    assert ids.shape == (2, 6)  # what does not fit is cut


def test_a_vocabulary_of_the_size_of_clips_is_learned_where_the_config_says_so(
    tmp_path,
):
    text = TextConfig(vocabulary=CLIP_VOCABULARY, tokenizer="learned")
    words = text_tokenizer_for(text, captioned(8), tmp_path / "words.json")
    assert words.vocabulary < CLIP_VOCABULARY


@pytest.mark.parametrize(
    "text",
    [TextConfig(), TextConfig(vocabulary=CLIP_VOCABULARY + 128, tokenizer="clip")],
)
def test_clips_vocabulary_is_taken_where_the_config_says_so(
    text, tmp_path, monkeypatch
):
    monkeypatch.setattr("vtp_eqx.runs.captions.clip_tokenizer", lambda: WORDS)
    assert text_tokenizer_for(text, captioned(8), tmp_path / "words.json") is WORDS


def test_captions_that_contrast_needs_are_asked_for(tmp_path):
    bare = ArraySource({"image": np.zeros((4, 16, 16, 3), np.uint8)})
    with pytest.raises(ValueError, match="needs captions; got none in 4 of 4 examples"):
        text_tokenizer_for(TEXT, bare, tmp_path / "words.json")


def test_a_vocabulary_that_is_too_large_is_refused(tmp_path):
    words = text_tokenizer_for(TEXT, captioned(8), tmp_path / "words.json")
    small = TextConfig(context=6, vocabulary=8, width=8, depth=1, num_heads=2)
    with pytest.raises(ValueError, match=r"got a vocabulary of .* for 8: raise"):
        caption_encoder(words, small)


def test_some_examples_are_as_many_as_there_are_and_each_once():
    found = random_examples(captioned(10), 100, 16, seed=0)
    assert sorted(found.label.tolist()) == list(range(10))
    few = random_examples(captioned(10), 4, 16, seed=0)
    assert len({*few.label.tolist()}) == 4


def test_several_sources_are_a_mixture(tmp_path):
    for name, count in (("a", 3), ("b", 5)):
        np.savez(tmp_path / f"{name}.npz", np.zeros((count, 16, 16, 3), np.uint8))
    paths = [str(tmp_path / f"{name}.npz") for name in "ab"]
    assert len(open_sources(paths)) == 8
    assert len(open_sources(paths[:1])) == 3


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Prepared scenes, 48 to train and 24 to validate."""
    config = SceneConfig(size=16, num_train=48, num_validation=24)
    return prepare_scenes(config, tmp_path_factory.mktemp("scenes"))


@pytest.mark.parametrize(
    ("paths", "split", "count"),
    [
        (["{scenes}:train", "{scenes}:validation"], "", 72),
        (["{scenes}:train[:50%]", "{arrays}"], "", 24 + 3),
        (["{scenes}", "{arrays}", "{scenes}:validation"], "train", 72 + 3),
        (["{scenes}"], "validation", 24),
    ],
)
def test_every_prepared_set_has_a_split_of_its_own(
    prepared, tmp_path, paths, split, count
):
    arrays = tmp_path / "a:b.npz"  # its name may have a colon
    np.savez(arrays, np.zeros((3, 16, 16, 3), np.uint8))
    paths = [path.format(scenes=prepared, arrays=arrays) for path in paths]
    assert len(open_sources(paths, split)) == count


def test_splits_and_weights_that_are_for_nothing_are_refused(prepared, tmp_path):
    np.savez(tmp_path / "a.npz", np.zeros((3, 16, 16, 3), np.uint8))
    arrays, scenes = str(tmp_path / "a.npz"), str(prepared)
    for paths, split, weights, message in [
        ([arrays], "train", (), "got 'train' for .*leave it out"),
        ([f"{scenes}:train"], "validation", (), "got 'validation' for"),
        ([scenes, arrays], "", (), "got none for .*name one"),
        ([f"{scenes}:"], "", (), "got none for .*name one"),
        ([arrays], "", (1.0,), "got 1 for 1: list"),
        ([arrays, arrays], "", (0.5, 0.3, 0.2), "got 3 for 2: list"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_sources(paths, split, weights)


def test_what_damaged_tars_lost_is_said_in_one_line(tmp_path, capsys):
    for name in "abc":
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for place in range(2):
                info = tarfile.TarInfo(f"{place}.jpg")
                info.size = 1000
                tar.addfile(info, io.BytesIO(bytes(1000)))
    open_sources([str(tmp_path)])
    assert capsys.readouterr().err == ""
    for name in "bc":
        path = tmp_path / f"{name}.tar"
        path.write_bytes(path.read_bytes()[:2500])
    assert len(open_sources([str(tmp_path)])) == 4
    assert capsys.readouterr().err == (
        f"{tmp_path}: 2 tars are damaged: b.tar (cut in the middle of 1.jpg; 452 bytes "
        "lost), c.tar (cut in the middle of 1.jpg; 452 bytes lost)\n"
    )


@pytest.mark.parametrize(
    ("text", "templates", "told"),
    [
        (TEXT, (), ["a cat"]),
        (TEXT, ("{} there", "one {}"), ["cat there", "one cat"]),
        (TextConfig(), (), [line.format("cat") for line in IMAGENET_TEMPLATES]),
        (TextConfig(tokenizer="learned"), (), ["a cat"]),
    ],
)
def test_prompts_are_names_in_templates(text, templates, told):
    texts = []

    def encode(some):
        texts.append(some)
        return np.full((len(some), 4), len(texts), np.int32)

    ids = encode_class_prompts(encode, text, ["cat", "dog"], templates)
    assert texts == [told, [line.replace("cat", "dog") for line in told]]
    assert ids.shape == (2, len(told), 4)
    assert ids[1, 0, 0] == 2


def test_batches_of_arrays_are_the_same_from_any_number_on():
    arrays = {"image": np.arange(12), "label": np.arange(12) % 3}
    read = ArrayBatches(dict, arrays, 4, seed=1, group=2)
    third = next(itertools.islice(read(0), 2, None))
    again = next(read(2))
    for name in arrays:
        np.testing.assert_array_equal(third[name], again[name])
    assert (third["image"][1::2] == third["image"][::2] + 1).all()
    assert (third["label"] == third["image"] % 3).all()


@pytest.mark.parametrize("parts", [(), (8, 4)])
def test_processes_share_the_batches_of_arrays(parts, monkeypatch):
    arrays = {"image": np.arange(12)}
    read = ArrayBatches(dict, arrays, 4, seed=1, parts=parts)
    whole = next(read(1))["image"]
    monkeypatch.setattr("jax.process_count", lambda: 2)
    shares = []
    for index in range(2):
        monkeypatch.setattr("jax.process_index", lambda index=index: index)
        shares.append(next(read(1))["image"])
    np.testing.assert_array_equal(np.concatenate(shares), whole)


def test_arrays_of_different_lengths_are_refused():
    read = ArrayBatches(dict, {"a": np.zeros(8), "b": np.zeros(9)}, 4, seed=0)
    with pytest.raises(ValueError, match="equally long"):
        next(read(0))
