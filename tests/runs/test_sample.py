"""A folder of samples: the same bits however it came to be, and what is refused."""

import dataclasses
import errno
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from PIL import Image
import pytest

from vtp_eqx.config import (
    DiTConfig,
    SampleConfig,
    SamplerConfig,
    TokenizerConfig,
    VIT_FEMTO,
)
from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.sources import ArraySource, open_source
from vtp_eqx.evaluation.extract import ExtractConfig, Images
from vtp_eqx.evaluation.networks import scene_features
from vtp_eqx.evaluation.reference import make_reference
from vtp_eqx.evaluation.sample_record import OWN_FILES, read_sample_record
from vtp_eqx.evaluation.samples import evaluate_samples
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.arrays import latents_hash
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import Generator
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs import sample as job
from vtp_eqx.runs.generator_setup import measure_generation
from vtp_eqx.runs.run_dir import DiskSpaceError
from vtp_eqx.runs.sample import choose_labels, sample
from vtp_eqx.runs.sample_files import read_images, write_archive
from vtp_eqx.scenes.render import render, SceneConfig


CONFIG = SampleConfig(
    num_samples=7, sampler=SamplerConfig(num_steps=2, guidance=1.5), group_size=2
)


class Networks:
    def __init__(self):
        config = TokenizerConfig(
            encoder=VIT_FEMTO, decoder=VIT_FEMTO, image_size=32, patch_size=8,
            latent_width=8,
        )  # fmt: skip
        tokenizer = eqx.filter_jit(Tokenizer)(config, key=jr.key(0))
        self.tokenizer = eqx.tree_at(
            lambda t: t.latent_std, tokenizer, jnp.full(8, 0.5)
        )
        shape = DiTConfig(
            width=16, depth=1, num_heads=2, latent_width=8, latent_size=4,
            num_classes=5,
        )  # fmt: skip
        dit = eqx.filter_jit(lambda key: DiT(shape, key=key))(jr.key(1))
        rng = np.random.default_rng(0)  # a new one stands still
        moved = jax.tree.map(
            lambda leaf: leaf + np.float32(0.2 * rng.normal(size=leaf.shape)), dit
        )
        self.generator = Generator(moved, latents_hash(self.tokenizer))

    def sample(self, folder, num_devices=1, **changes):
        given = changes.pop("given", None)
        config = dataclasses.replace(CONFIG, **changes)
        mesh = data_mesh(num_devices)
        return sample(
            config, self.generator, self.tokenizer, folder, given=given, mesh=mesh
        )


@pytest.fixture(scope="module")
def networks():
    return Networks()


@pytest.fixture(scope="module")
def whole(networks, tmp_path_factory):
    """A folder that was drawn in one go on one device."""
    folder = tmp_path_factory.mktemp("whole") / "samples"
    networks.sample(folder)
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_each_image_is_there_once_with_the_record_of_all(whole, networks):
    images = content(whole)
    assert sorted(images) == [f"{index:06d}.png" for index in range(7)]
    assert len(set(images.values())) == 7
    record = read_sample_record(whole)
    assert (record.num_samples, record.labels, record.group_size) == (7, "balanced", 2)
    assert record.sampler == CONFIG.sampler
    assert record.latents_hash == networks.generator.latents_hash


def test_neither_devices_nor_their_number_change_an_image(whole, networks, tmp_path):
    networks.sample(tmp_path / "devices", num_devices=3)
    assert content(tmp_path / "devices") == content(whole)
    compiled = job._draw._cached._cache_size()
    networks.sample(tmp_path / "few", num_samples=3)
    three = {f"{index:06d}.png" for index in range(3)}
    assert content(tmp_path / "few").keys() == three
    assert content(tmp_path / "few").items() <= content(whole).items()
    networks.sample(tmp_path / "few", num_samples=7)  # adds to what is there
    assert content(tmp_path / "few") == content(whole)
    assert job._draw._cached._cache_size() == compiled


def test_a_full_disk_loses_nothing(whole, networks, tmp_path, monkeypatch):
    written, write = [], job.write_image

    def fill(path, image):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path.name)
        write(path, image)

    monkeypatch.setattr(job, "write_image", fill)
    monkeypatch.setattr(job, "WRITERS", 1)
    with pytest.raises(DiskSpaceError, match=r"a full disk at .*: make room and run"):
        networks.sample(tmp_path)
    monkeypatch.undo()
    assert content(tmp_path).keys() == {*written}
    # As a kill in the middle of a write leaves it.
    (tmp_path / ".000003.png.0123abcd").write_bytes(b"part")
    networks.sample(tmp_path, num_devices=3)
    assert content(tmp_path) == content(whole)
    assert not list(tmp_path.glob(".*.png.*"))


def test_the_archive_is_read_as_adm_publishes_its_own(whole):
    path = write_archive(whole, np.arange(7) % 5)
    with np.load(path) as archive:
        images, labels = archive["arr_0"], archive["arr_1"]
    assert images.dtype == np.uint8
    assert images.shape == (7, 32, 32, 3)
    np.testing.assert_array_equal(images, read_images(whole, range(7)))
    np.testing.assert_array_equal(labels, np.arange(7) % 5)
    before = path.read_bytes()
    assert write_archive(whole, labels).read_bytes() == before
    others = {path.name for path in whole.iterdir() if path.suffix != ".png"}
    assert others == {*OWN_FILES}
    assert len(open_source(path)) == 7
    assert read_sample_record(path).num_samples == 7


def test_half_precision_rounds_and_is_told(whole, networks, tmp_path):
    record = networks.sample(tmp_path, num_samples=2, precision="bfloat16")
    assert record.precision == "bfloat16"
    rounded, exact = (
        np.float32(read_images(folder, range(2))) for folder in (tmp_path, whole)
    )
    assert 0 < np.abs(rounded - exact).mean() < 6


def test_labels_are_functions_of_the_index():
    balanced = choose_labels(CONFIG, 5)
    np.testing.assert_array_equal(balanced, [0, 1, 2, 3, 4, 0, 1, 2])  # whole groups
    random = dataclasses.replace(CONFIG, labels="uniform", num_samples=2000)
    labels = choose_labels(random, 5)
    few = choose_labels(dataclasses.replace(random, num_samples=10), 5)
    np.testing.assert_array_equal(labels[:10], few)
    assert np.bincount(labels).min() > 300
    other = choose_labels(dataclasses.replace(random, seed=1), 5)
    assert (labels != other).any()
    given = dataclasses.replace(CONFIG, labels="given")
    cycled = choose_labels(given, 5, np.array([4, 5]))
    np.testing.assert_array_equal(cycled, [4, 5, 4, 5, 4, 5, 4, 5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"^`seed` must be what .* was begun with"),
        ({"group_size": 1}, r"^`group_size` must be what"),
        ({"sampler": SamplerConfig(num_steps=3)}, r"^`sampler.num_steps`, `sampler.gu"),
        ({"num_samples": 6}, r"^`num_samples` \(6\) must be those .* \(7\), or more"),
        ({"labels": "given"}, r"^`given` \(none\) must be classes where"),
        ({"given": np.array([2])}, r"^`given` \(1\) must be classes where, and only"),
        ({"labels": "given", "given": np.array([6])}, r"^Labels are 0 to 4, and 5 for"),
        ({"labels": "given", "given": np.array([0])}, r"^`labels`, `labels_hash` must"),
    ],
)
def test_what_would_mix_samples_or_has_no_meaning_is_refused(
    changes, message, whole, networks
):
    before = content(whole)
    with pytest.raises(ValueError, match=message) as raised:
        networks.sample(whole, **changes)
    assert len(str(raised.value).splitlines()) == 1
    assert content(whole) == before


def test_a_folder_with_other_images_is_refused(networks, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "mine.png")
    with pytest.raises(ValueError, match=r"^`folder` \(.*mine.png.*\) must have no im"):
        networks.sample(tmp_path)


def test_another_tokenizer_is_refused(networks, tmp_path):
    other = eqx.tree_at(lambda t: t.latent_mean, networks.tokenizer, jnp.ones(8))
    with pytest.raises(ValueError, match=r"^`generator_latents_hash` .* the tokenizer"):
        sample(CONFIG, networks.generator, other, tmp_path / "none")


def test_latents_that_are_no_numbers_are_one_sentence(networks, tmp_path):
    broken = eqx.tree_at(
        lambda g: g.dit.labels, networks.generator,
        networks.generator.dit.labels.at[4].set(jnp.nan),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"1 samples .* number \[4\] of class \[4\]"):
        sample(CONFIG, broken, networks.tokenizer, tmp_path, mesh=data_mesh(1))
    # Those before it were kept.
    assert sorted(content(tmp_path)) == [f"{index:06d}.png" for index in range(4)]


def reference_of(count, folder):
    found = render(SceneConfig(), np.arange(count))
    images = Images(source=ArraySource({"image": found.image}), crop=CenterCrop(32))
    place = ExtractConfig(folder=folder / "reference", batch_size=8, mesh=data_mesh(1))
    return make_reference(images, scene_features(), place, keep_features=True)


def test_numbers_in_training_are_those_of_the_folder(whole, networks, tmp_path):
    reference, network = reference_of(24, tmp_path), scene_features()
    numbers = measure_generation(
        CONFIG, networks.generator, networks.tokenizer, reference, network, data_mesh(1)
    )
    place = ExtractConfig(folder=tmp_path, batch_size=8, mesh=data_mesh(1))
    expected = evaluate_samples(
        Images(source=open_source(whole), crop=CenterCrop(32)),
        read_sample_record(whole), network, reference, place,
    )  # fmt: skip
    assert numbers.keys() == {"gFD-scenes", "precision", "recall"}
    assert numbers == pytest.approx(expected, rel=1e-4)
