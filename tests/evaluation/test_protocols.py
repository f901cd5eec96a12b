import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.data.crops import CenterCrop, Resize
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.data.text.caption_bpe import train_tokenizer
from vtp_eqx.evaluation.batches import as_bytes
from vtp_eqx.evaluation.card import read
from vtp_eqx.evaluation.extract import ExtractConfig, Images
from vtp_eqx.evaluation.frechet import frechet_distance, Moments
from vtp_eqx.evaluation.networks import PerceptualNetwork, scene_features
from vtp_eqx.evaluation.protocols import (
    embed_classes,
    neighbors,
    reconstruction,
    top_accuracy,
    zero_shot,
)
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.arrays import latents_hash, weights_hash


@pytest.fixture
def place(tmp_path):
    return ExtractConfig(folder=tmp_path, batch_size=16, mesh=data_mesh(1))


def images_of(source, crop=None):
    return Images(source=source, crop=crop or CenterCrop(32))


def first_pixel(model, image, other):
    return model * jnp.abs(image - other)[0, 0, 0]


def test_reconstructions_are_judged_as_they_would_be_saved(tokenizer, scenes, place):
    network = scene_features()
    perceptual = PerceptualNetwork(jnp.array(2.0), first_pixel, "ff")
    numbers = reconstruction(
        tokenizer, images_of(scenes), network, place, perceptual=perceptual
    )
    assert numbers.keys() == {"PSNR", "SSIM", "LPIPS", "rFD-scenes"}
    real = np.float32(scenes.arrays["image"]) / 255
    again = jax.jit(jax.vmap(lambda i: tokenizer.decode(tokenizer.encode(i))))(real)
    again = as_bytes(again).astype(np.float64) / 255
    error = ((again - real) ** 2).mean(axis=(1, 2, 3))
    assert numbers["PSNR"] == pytest.approx(np.mean(-10 * np.log10(error)), rel=1e-6)
    pixel = 2 * np.abs(again - real)[:, 0, 0, 0].mean()
    assert numbers["LPIPS"] == pytest.approx(pixel, rel=1e-4)
    seen = jax.jit(jax.vmap(network))
    pair = (np.float32(again), real)
    moments = [Moments.of(np.asarray(seen(x).features)) for x in pair]
    distance = frechet_distance(*moments)
    assert numbers["rFD-scenes"] == pytest.approx(distance, rel=1e-4)
    written, card = read(place.folder / "card_reconstruction.json")
    assert written == numbers
    assert card.protocol.startswith("images clipped and rounded to bytes, perceptual")
    assert card.tokenizer_hash == weights_hash(tokenizer)
    assert card.latents_hash == ""  # it has no statistics, and needs none here
    assert (card.num_samples, card.crop) == (48, "CenterCrop(size=32)")
    assert card.feature_origin == "shipped with vtp_eqx"


def test_rounded_weights_give_close_numbers_and_another_card(tokenizer, scenes, place):
    exact = eqx.tree_at(lambda t: t.latent_std, tokenizer, jnp.full(8, 2.0))
    near = exact.at_precision("bfloat16")
    numbers, cards = [], []
    for judged in (exact, near):
        images = images_of(scenes)
        numbers.append(reconstruction(judged, images, scene_features(), place))
        cards.append(read(place.folder / "card_reconstruction.json")[1])
    assert [card.precision for card in cards] == ["float32", "bfloat16"]
    assert cards[1].tokenizer_hash == weights_hash(near) != cards[0].tokenizer_hash
    assert cards[1].latents_hash == cards[0].latents_hash == latents_hash(exact)
    for name, value in numbers[0].items():
        assert numbers[1][name] == pytest.approx(value, rel=0.02)
        assert numbers[1][name] != value


def test_another_count_than_asked_for_gives_no_number(tokenizer, scenes, place):
    with pytest.raises(ValueError, match="48 of 50"):
        reconstruction(
            tokenizer, images_of(scenes), scene_features(), place, num_samples=50
        )
    assert not list(place.folder.glob("card*"))


def test_a_size_the_network_does_not_read_is_refused(tokenizer, scenes, place):
    with pytest.raises(ValueError, match="choose another"):
        reconstruction(
            tokenizer, images_of(scenes, CenterCrop(64)), scene_features(), place
        )


NAMES = ["red circle", "blue square", "green cross"]


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


def test_top_accuracy_by_hand():
    logits = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    labels = np.array([0, 1, 0])
    assert top_accuracy(logits, labels, 1) == pytest.approx(1 / 3)
    assert top_accuracy(logits, labels, 2) == pytest.approx(2 / 3)
    assert top_accuracy(logits, labels, 3) == 1


def test_an_image_is_its_own_nearest_neighbor(tokenizer, scenes, place):
    images = images_of(scenes)
    numbers = neighbors(tokenizer, images, images, place, counts=(1, 5))
    assert numbers["1 nearest neighbors"] == 1
    assert numbers["5 nearest neighbors"] < 1
    _, card = read(place.folder / "card_neighbors.json")
    assert card.num_reference == 48
