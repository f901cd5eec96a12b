import dataclasses

import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from vtp_eqx.config import SamplerConfig
from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.folders import FolderSource
from vtp_eqx.evaluation.card import read
from vtp_eqx.evaluation.console import numbers_table
from vtp_eqx.evaluation.extract import ExtractConfig
from vtp_eqx.evaluation.frechet import Moments
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.networks import FeatureNetwork, NetworkOutputs, scene_features
from vtp_eqx.evaluation.reference import make_reference
from vtp_eqx.evaluation.sample_record import (
    read_sample_record,
    SampleRecord,
    write_sample_record,
)
from vtp_eqx.evaluation.samples import (
    evaluate_sample_sets,
    evaluate_samples,
    SampleSet,
)
from vtp_eqx.mesh import data_mesh


RECORD = SampleRecord(
    num_samples=24,
    sampler=SamplerConfig(num_steps=20),
    labels="balanced",
    seed=3,
    precision="float32",
    tokenizer_hash="aa",
    latents_hash="bb",
    generator_hash="cc",
    generator_latents_hash="bb",
)


@pytest.fixture
def place(tmp_path):
    return ExtractConfig(folder=tmp_path / "out", batch_size=8, mesh=data_mesh(1))


@pytest.fixture(scope="module")
def reference(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    place = ExtractConfig(folder=folder, batch_size=16, mesh=data_mesh(1))
    images = Images(source=scenes, crop=CenterCrop(32))
    return make_reference(images, scene_features(), place, keep_features=True)


@pytest.fixture
def samples(scenes, tmp_path):
    """A folder of 24 of the scenes, as a generator would leave it."""
    folder = tmp_path / "samples"
    folder.mkdir()
    for row in range(24):
        Image.fromarray(scenes[row]["image"]).save(folder / f"{row:05d}.png")
    write_sample_record(folder, RECORD)
    return folder


def images_of(folder):
    return Images(source=FolderSource(folder), crop=CenterCrop(32))


def test_a_folder_of_samples_is_judged_with_what_made_it(samples, reference, place):
    numbers = evaluate_samples(
        images_of(samples), read_sample_record(samples), scene_features(), reference,
        place,
    )  # fmt: skip
    assert numbers.keys() == {"gFD-scenes", "precision", "recall"}
    assert numbers["precision"] == 1  # they are real ones
    written, card = read(place.folder / "card_generation.json")
    assert written == numbers
    assert (card.num_samples, card.num_reference) == (24, 48)
    assert (card.sampler, card.labels, card.seed) == (RECORD.sampler, "balanced", 3)
    assert card.generator_hash == "cc"
    assert card.reference_hash == reference.hash


def test_real_images_are_at_no_distance_from_themselves(scenes, reference, place):
    numbers = evaluate_samples(
        Images(source=scenes, crop=CenterCrop(32)), "real scenes", scene_features(),
        reference, place,
    )  # fmt: skip
    assert numbers["gFD-scenes"] < 1e-3
    assert (numbers["precision"], numbers["recall"]) == (1, 1)
    _, card = read(place.folder / "card_generation.json")
    assert (card.origin, card.tokenizer_hash, card.sampler) == ("real scenes", "", None)


def three_kinds(model, image):
    mean = jnp.mean(image, axis=(0, 1))
    return NetworkOutputs(mean, spatial=image[0].reshape(-1)[:5], logits=100 * mean)


def test_inception_gives_all_that_is_called_by_its_name(scenes, place):
    network = FeatureNetwork(None, three_kinds, "inception-v3", "aa", None)
    images = Images(source=scenes, crop=CenterCrop(32))
    reference = make_reference(images, network, place)
    numbers = evaluate_samples(images, "real", network, reference, place)
    assert numbers.keys() == {"gFID", "sFID", "Inception score"}
    assert numbers["gFID"] < 1e-9
    assert numbers["sFID"] < 1e-9
    assert 1 < numbers["Inception score"] <= 3


def test_what_does_not_belong_together_gives_no_number(samples, reference, place):
    def measure(reference=reference, network=None, num_samples=24):
        images = dataclasses.replace(images_of(samples), num_samples=num_samples)
        network = network or scene_features()
        evaluate_samples(images, RECORD, network, reference, place)

    other = dataclasses.replace(scene_features(), hash="another")
    with pytest.raises(ValueError, match="one network"):
        measure(network=other)
    with pytest.raises(ValueError, match="a record of 24"):
        measure(num_samples=23)
    with pytest.raises(ValueError, match="reference of 64"):
        measure(reference=dataclasses.replace(reference, image_size=64))
    narrow = Moments.of(np.ones((3, 5)))
    with pytest.raises(ValueError, match=r"^`reference` \(5 features\) .* \(128\)"):
        measure(reference=dataclasses.replace(reference, moments=narrow))
    (samples / "00000.png").write_bytes(b"torn")
    for count in (24, None):
        with pytest.raises(ValueError, match="got 23 of 24"):
            measure(num_samples=count)
    assert not (place.folder / "card_generation.json").exists()


def test_unguided_and_guided_samples_are_shown_side_by_side(samples, reference, place):
    images = images_of(samples)
    sampler = dataclasses.replace(
        RECORD.sampler, guidance=2.5, guidance_start=0.1, guided_channels=3
    )
    sets = [
        SampleSet(images=images, record=RECORD),
        SampleSet(
            images=images,
            record=dataclasses.replace(RECORD, sampler=sampler),
            name="guided",
        ),
    ]
    network = scene_features()
    measures = {"": (network, reference), "again": (network, reference)}
    results = evaluate_sample_sets(sets, measures, place)
    assert results[0] == results[1]
    for name, guidance in (("", 1), ("again", 1), ("guided", 2.5)):
        numbers, card = read(place.folder / name / "card_generation.json")
        assert numbers == results[0]
        assert card.sampler.guidance == guidance
    titles = [samples.title for samples in sets]
    table = numbers_table([*zip(titles, results, strict=True)], card)
    titles = [column.header for column in table.columns]
    assert titles == ["number", "unguided", "guided by 2.5, t 0.1 to 1, 3 channels"]
    assert [*table.columns[0].cells] == ["gFD-scenes", "precision", "recall"]
    assert [*table.columns[1].cells] == [*table.columns[2].cells]
    with pytest.raises(ValueError, match="must have different names"):
        evaluate_sample_sets([sets[0]] * 2, measures, place)
