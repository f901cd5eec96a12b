import jax
import numpy as np
import pytest

from vtp_eqx.data.crops import CenterCrop, Resize
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.data.text.caption_bpe import train_tokenizer
from vtp_eqx.evaluation.card import read
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.zero_shot import (
    embed_classes,
    zero_shot,
    zero_shot_accuracy,
)


NAMES = ["red circle", "blue square", "green cross"]


def images_of(source, crop=None):
    return Images(source=source, crop=crop or CenterCrop(32))


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(NAMES, 280)


def labelled(tokenizer, words, scenes):
    """Scenes labelled as an untrained tokenizer sees them, but the first six wrong."""
    classes = embed_classes(tokenizer, words, NAMES, ["a {}", "the {}."])
    images = np.float32(scenes.arrays["image"]) / 255
    embeddings = jax.jit(jax.vmap(tokenizer.embed_image))(images)
    seen = (np.asarray(embeddings) @ classes.T).argmax(axis=1)
    seen[:6] = (seen[:6] + 1) % 3
    return ArraySource({"image": scenes.arrays["image"], "label": seen})


def test_zero_shot_takes_the_most_similar_class(tokenizer, words, scenes, place):
    source = labelled(tokenizer, words, scenes)
    numbers = zero_shot(
        tokenizer,
        words,
        NAMES,
        ["a {}", "the {}."],
        images_of(source, Resize(32)),
        place,
    )
    assert numbers == {"zero-shot top-1": pytest.approx(42 / 48)}
    _, card = read(place.folder / "card_zero_shot.json")
    assert card.num_reference == 6
    assert card.crop == "Resize(size=32)"
    other = embed_classes(tokenizer, words, NAMES, ["a {}"])
    assert not np.allclose(other, embed_classes(tokenizer, words, NAMES, ["the {}."]))


def test_a_class_is_the_unit_mean_of_unit_prompts(tokenizer, words):
    both, first, second = (
        embed_classes(tokenizer, words, NAMES, templates)
        for templates in (["a {}", "the {}"], ["a {}"], ["the {}"])
    )
    mean = first + second
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(both, mean, rtol=1e-5)


def test_names_that_do_not_fit_are_refused(tokenizer, words, scenes, place):
    images = images_of(scenes)  # labels up to 23
    with pytest.raises(ValueError, match="Every class has one name"):
        zero_shot(tokenizer, words, NAMES, ["a {}"], images, place)
    for names, templates in (([], ["a {}"]), (NAMES, []), (NAMES, ["a photo"])):
        with pytest.raises(ValueError, match="templates with"):
            embed_classes(tokenizer, words, names, templates)


def test_zero_shot_takes_the_most_similar_class_by_hand():
    classes = np.array([[1.0, 0.0], [0.0, 1.0]])
    images = np.array([[2.0, 1.0], [0.1, 0.2], [0.3, 0.2]])
    labels = np.array([0, 1, 1])
    assert zero_shot_accuracy(images, labels, classes) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="class embedding"):
        zero_shot_accuracy(images, labels + 1, classes)
