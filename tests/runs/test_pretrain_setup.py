import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from PIL import Image
import pytest

from vtp_eqx.config import (
    AlignmentConfig,
    decoder_like,
    PretrainConfig,
    PrototypeConfig,
    published,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
    VIT_FEMTO,
)
from vtp_eqx.data.text.caption_bpe import CaptionTokenizer, train_tokenizer
from vtp_eqx.models.arrays import weights_hash
from vtp_eqx.runs.pretrain_options import PretrainOptions
from vtp_eqx.runs.pretrain_setup import open_data, open_pretraining
from vtp_eqx.tokenizer import load, save, Tokenizer


@pytest.fixture
def options(tmp_path) -> PretrainOptions:
    """Five images, and no validation."""
    np.savez(tmp_path / "five.npz", arr_0=np.zeros((5, 8, 8, 3), np.uint8))
    np.savez(tmp_path / "three.npz", arr_0=np.zeros((3, 8, 8, 3), np.uint8))
    config = PretrainConfig(
        tokenizer=published(VIT_FEMTO), prototypes=PrototypeConfig()
    )
    return PretrainOptions(config=config, data=(str(tmp_path / "five.npz"),))


def test_without_validation_a_run_is_evaluated_on_its_data(options):
    data = open_data(options)
    assert data.validation is data.train
    assert (len(data.train), data.group) == (5, 1)
    assert (data.class_names, data.templates) == ([], [])


def test_what_options_name_is_opened(options, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    (tmp_path / "prompts.txt").write_text("a {}\n")
    named = dataclasses.replace(
        options, validation=str(tmp_path / "three.npz"), group=2,
        classes=str(tmp_path / "names.txt"), templates=str(tmp_path / "prompts.txt"),
    )  # fmt: skip
    data = open_data(named)
    assert (len(data.train), len(data.validation), data.group) == (5, 3, 2)
    assert (data.class_names, data.templates) == (["cat", "dog"], ["a {}"])


SHAPE = TransformerConfig(width=16, depth=1, num_heads=2)
CAPTIONED = PretrainConfig(
    tokenizer=TokenizerConfig(
        encoder=SHAPE,
        decoder=decoder_like(SHAPE),
        text=TextConfig(context=8, vocabulary=300, width=8, depth=1, num_heads=2),
        image_size=16,
        patch_size=4,
    ),
    distillation_weight=0.0,
    batch_size=8,
    reconstruction_batch=8,
)


ALIGNED = dataclasses.replace(
    CAPTIONED,
    contrast_weight=0.0,
    alignment_weight=0.1,
    alignment=AlignmentConfig(width=16, weighting="adaptive"),
)


@pytest.fixture
def aligned(tmp_path, options) -> PretrainOptions:
    """A run that learns from the encoder of a saved tokenizer."""
    frozen = eqx.filter_jit(Tokenizer)(ALIGNED.tokenizer, key=jr.key(1))
    save(frozen, tmp_path / "frozen")
    np.savez(tmp_path / "sixteen.npz", arr_0=np.zeros((9, 16, 16, 3), np.uint8))
    return PretrainOptions(
        config=ALIGNED, out=str(tmp_path / "run"), vision=str(tmp_path / "frozen"),
        data=(str(tmp_path / "sixteen.npz"),), devices=1, num_eval=4,
    )  # fmt: skip


def test_a_tokenizer_can_be_what_latents_are_aligned_with(aligned, tmp_path):
    with open_pretraining(aligned, load) as setup:
        assert setup.vision is not None
        features = setup.vision(jnp.zeros((16, 16, 3)))
        frozen = load(tmp_path / "frozen")
        expected = frozen.features(jnp.zeros((16, 16, 3)))[0].patches
        np.testing.assert_allclose(features.reshape(-1, 16), expected, atol=1e-5)
    record = (tmp_path / "run" / "data.txt").read_text()
    assert record.strip().endswith(f" aligned with {weights_hash(frozen)}")
    # Another network is another run.
    save(eqx.filter_jit(Tokenizer)(ALIGNED.tokenizer, key=jr.key(2)), tmp_path / "new")
    with pytest.raises(SystemExit, match="aligned with"):
        start(dataclasses.replace(aligned, vision=str(tmp_path / "new")))


def start(options):
    """Opens a run that does no step."""
    with open_pretraining(options, load):
        pass


def test_a_frozen_network_is_asked_for_where_it_is_learned_from(aligned):
    with pytest.raises(SystemExit, match=r"^`vision` \(''\) must .* alignment learns"):
        start(dataclasses.replace(aligned, vision=""))
    with pytest.raises(ValueError, match=r"^`vision` \(.*\) is what latents are"):
        dataclasses.replace(aligned, config=CAPTIONED)
    wide = dataclasses.replace(ALIGNED, alignment=AlignmentConfig())
    with pytest.raises(SystemExit, match=r"^`config.alignment.width` \(1024\) .* 16: "):
        start(dataclasses.replace(aligned, config=wide))


def test_a_vocabulary_is_that_of_the_data_a_run_begins_with(tmp_path):
    """Not of what was tried before, and refused."""
    for word in ("cat", "dog"):
        (tmp_path / word).mkdir()
        for number in range(9):
            image = Image.new("RGB", (16, 16))
            image.save(tmp_path / word / f"{number}.png")
            (tmp_path / word / f"{number}.txt").write_text(f"a {word} {word} {word}")
    run = tmp_path / "run"
    options = PretrainOptions(
        config=CAPTIONED, out=str(run), data=(str(tmp_path / "cat"),), devices=1,
        num_eval=1,
    )  # fmt: skip
    with pytest.raises(SystemExit, match="leaves 1 images"):
        start(options)
    assert not (run / "words.json").exists()
    start(dataclasses.replace(options, data=(str(tmp_path / "dog"),), num_eval=4))
    words = CaptionTokenizer.load(run / "words.json")
    assert words.pieces.token_to_id("\u0120dog") is not None
    assert words.pieces.token_to_id("\u0120cat") is None


@pytest.fixture
def named(tmp_path) -> PretrainOptions:
    """A run on images in numbered class folders, with a vocabulary."""
    train_tokenizer(["a cat", "a dog"], 300).save(tmp_path / "run" / "words.json")
    for label in (8, 9, 10, 11):
        (tmp_path / "data" / str(label)).mkdir(parents=True)
        image = Image.fromarray(np.full((16, 16, 3), label, np.uint8))
        for copy in "ab":
            image.save(tmp_path / "data" / str(label) / f"{copy}.png")
    return PretrainOptions(
        config=CAPTIONED, out=str(tmp_path / "run"), data=(str(tmp_path / "data"),),
        classes=str(tmp_path / "names.txt"), devices=1, num_eval=4,
    )  # fmt: skip


def prompts_of(options, tmp_path, names, templates="a {}\n"):
    """The prompts of a run with these files, opened as far as before its first step."""
    (tmp_path / "names.txt").write_bytes(names)
    (tmp_path / "templates.txt").write_text(templates)
    templates = str(tmp_path / "templates.txt")
    options = dataclasses.replace(options, templates=templates)
    with open_pretraining(options, load) as setup:
        return setup.prompts


NAMES = b"cat\ndog\nowl\nant\n"


def test_class_names_are_read_however_they_were_saved(named, tmp_path, capsys):
    expected = prompts_of(named, tmp_path, NAMES)
    shown = "4 classes: label 0 is 'cat' (folder '8'), 3 is 'ant' (folder '11')."
    assert shown in capsys.readouterr().out
    for names in (b"\xef\xbb\xbf" + NAMES, b"cat\r\n\r\ndog\r\nowl \r\n\nant"):
        found = prompts_of(named, tmp_path, names, "\n a {} \n\n")
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("names", "templates", "sentence"),
    [
        (NAMES, "a photo\n", "no other braces; got .*a photo"),
        (NAMES, "a {c}\n", "no other braces; got .*a {c}"),
        (b"cat\ndog\n", "a {}\n", "got 2 names and 4 class folders"),
        (b"", "a {}\n", "is empty"),
        (b"11\n10\n9\n8\n", "a {}\n", "the same names in another order"),
    ],
)
def test_prompts_that_cannot_be_are_refused(
    named, tmp_path, names, templates, sentence
):
    with pytest.raises(SystemExit, match=sentence):
        prompts_of(named, tmp_path, names, templates)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([0, 1, 2, 3, 0, 1, 2, 3], "got 2 names and the label 3"),
        ([0, 1, 0, -1, 0, 1, 0, 1], r"`label` \(-1, of row 3\) .* 1 of 8 images"),
        (None, r"`label` \(no label, of row 0\) .* 8 of 8 images"),
    ],
)
def test_names_are_checked_against_the_labels_of_arrays(
    named, tmp_path, labels, sentence
):
    arrays = {} if labels is None else {"arr_1": np.array(labels)}
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((8, 16, 16, 3), np.uint8), **arrays)
    options = dataclasses.replace(named, data=(str(tmp_path / "a.npz"),))
    with pytest.raises(SystemExit, match=sentence):
        prompts_of(options, tmp_path, b"cat\ndog\n")
