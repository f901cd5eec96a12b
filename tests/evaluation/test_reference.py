import dataclasses

import numpy as np
import pytest

from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.evaluation.frechet import frechet_distance, Moments
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.networks import scene_features
from vtp_eqx.evaluation.reference import (
    add_image_features,
    make_reference,
    read_reference,
    Reference,
    write_reference,
)


def some(seed=0, width=4):
    rows = np.random.default_rng(seed).normal(size=(30, width))
    return Moments.of(rows)


REFERENCE = Reference(
    moments=some(),
    spatial=some(1, 6),
    features=np.ones((30, 4), np.float32),
    network="scene-network",
    network_hash="aa",
    image_size=32,
    crop="CenterCrop(size=32)",
)


@pytest.mark.parametrize(
    "reference",
    [REFERENCE, dataclasses.replace(REFERENCE, spatial=None, features=None)],
    ids=["whole", "moments"],
)
def test_a_reference_reads_back_as_it_was_written(reference, tmp_path):
    path = tmp_path / "deep" / "reference.npz"
    write_reference(path, reference)
    got = read_reference(path)
    for name in ("network", "network_hash", "image_size", "crop"):
        assert getattr(got, name) == getattr(reference, name)
    assert got.moments.count == 30
    assert frechet_distance(got.moments, reference.moments) < 1e-12
    assert (got.spatial is None) == (reference.spatial is None)
    assert (got.features is None) == (reference.features is None)


def test_others_read_the_published_keys(tmp_path):
    path = tmp_path / "reference.npz"
    write_reference(path, REFERENCE)
    with np.load(path) as content:
        rows = np.random.default_rng(0).normal(size=(30, 4))
        np.testing.assert_allclose(content["mu"], rows.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(content["sigma"], np.cov(rows.T), atol=1e-12)
        assert content["sigma_s"].shape == (6, 6)


def test_files_of_others_are_read_with_what_they_do_not_tell(tmp_path):
    path = tmp_path / "published.npz"
    rows = np.random.default_rng(0).normal(size=(30, 4))
    # As ADM's: single precision, with images, and spatial statistics.
    np.savez(
        path,
        arr_0=np.zeros((2, 8, 8, 3), np.uint8),
        mu=np.float32(rows.mean(axis=0)),
        sigma=np.float32(np.cov(rows.T)),
        mu_s=np.zeros(3),
        sigma_s=np.eye(3),
    )
    got = read_reference(path, network="inception-v3", count=30)
    assert (got.network, got.moments.count, got.image_size) == (
        "inception-v3",
        30,
        None,
    )
    assert got.moments.mean.dtype == np.float64
    np.testing.assert_allclose(got.moments.covariance, np.cov(rows.T), rtol=1e-5)
    assert got.spatial is not None
    for told, missing in (
        ({"network": "inception-v3"}, "count"),
        ({"count": 3}, "net"),
    ):
        with pytest.raises(ValueError, match=f"does not tell: say it .*{missing}"):
            read_reference(path, **told)


def test_what_contradicts_the_file_is_refused(tmp_path):
    path = tmp_path / "reference.npz"
    write_reference(path, REFERENCE)
    with pytest.raises(ValueError, match="'scene-network' in"):
        read_reference(path, network="inception-v3")
    with pytest.raises(ValueError, match="50000 from you"):
        read_reference(path, count=50000)
    reference = read_reference(path, network="scene-network", count=30)
    reference.check_network("scene-network", "aa")
    for name, digest in (("scene-network", "bb"), ("inception-v3", "aa")):
        with pytest.raises(ValueError, match="one network"):
            reference.check_network(name, digest)


def test_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "reference.npz"
    with pytest.raises(FileNotFoundError, match="found none"):
        read_reference(path)
    path.write_bytes(b"PK\x03\x04torn")
    with pytest.raises(ValueError, match="damaged"):
        read_reference(path)
    np.savez(path, arr_0=np.zeros(3))
    with pytest.raises(ValueError, match="`mu` and `sigma`"):
        read_reference(path)
    np.savez(path, mu=np.zeros(2), sigma=np.array([[1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="symmetric"):
        read_reference(path, network="inception-v3", count=3)
    np.savez(path, mu=np.full(2, np.nan), sigma=np.eye(2))
    with pytest.raises(ValueError, match="finite"):
        read_reference(path, network="inception-v3", count=3)


@pytest.mark.parametrize("size", ["256", "512"])
def test_adms_files_are_read_as_published(size, tmp_path):
    path = tmp_path / f"VIRTUAL_imagenet{size}_labeled.npz"
    np.savez(
        path,
        arr_0=np.zeros((2, 8, 8, 3), np.uint8),
        arr_1=np.zeros(2, np.int64),
        mu=np.zeros(2048, np.float32),
        sigma=np.eye(2048, dtype=np.float32),
        mu_s=np.zeros(3, np.float32),
        sigma_s=np.eye(3, dtype=np.float32),
    )
    got = read_reference(path)
    assert (got.network, got.moments.count) == ("inception-v3", 1_281_167)
    assert got.spatial is not None
    path = path.rename(tmp_path / "mine.npz")
    with pytest.raises(ValueError, match=r"`count`, which .* does not tell"):
        read_reference(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(2, np.int64)}, r"^`mu` \(int64 of shape \(2,\)"),
        ({"mu": np.zeros((1, 2))}, r"^`mu` \(float64 of shape \(1, 2\)"),
        ({"sigma": np.eye(3)}, r"^`sigma` \(.*\(3, 3\) .* must be .* \(2, 2\)"),
        ({"features": np.zeros((5, 3))}, r"^`features` \(.* must be .* \(5, 2\)"),
        ({"mu": np.array(["a", "b"])}, r"^`mu` \(<U1 of shape"),
        ({"mu": np.array([1, None])}, r"whole \.npz file"),
    ],
)
def test_arrays_of_another_type_or_shape_are_refused(arrays, message, tmp_path):
    path = tmp_path / "reference.npz"
    np.savez(path, **{"mu": np.zeros(2), "sigma": np.eye(2), **arrays})
    with pytest.raises(ValueError, match=message) as raised:
        read_reference(path, network="inception-v3", count=3)
    assert len(str(raised.value).splitlines()) == 1


def test_images_in_a_reference_give_its_features(scenes, place, tmp_path):
    images = Images(source=scenes, crop=CenterCrop(32))
    network = scene_features()
    made = make_reference(images, network, place, keep_features=True)
    path = tmp_path / "reference.npz"
    write_reference(path, dataclasses.replace(made, features=None))
    with np.load(path) as content:
        arrays = dict(content)
    np.savez(path, arr_0=scenes.arrays["image"], **arrays)
    bare = read_reference(path)
    assert bare.features is None
    whole = add_image_features(bare, path, network, place)
    np.testing.assert_allclose(whole.features, made.features, rtol=1e-5, atol=1e-5)
    assert add_image_features(made, path, network, place) is made


def test_a_reference_is_made_of_images(scenes, place):
    images = Images(source=scenes, crop=CenterCrop(32))
    made = make_reference(images, scene_features(), place, keep_features=True)
    assert made.features.shape == (48, 128)
    np.testing.assert_allclose(made.moments.mean, made.features.mean(0), rtol=1e-5)
    assert (made.network, made.image_size) == ("scene-network", 32)
    images = dataclasses.replace(images, num_samples=50)
    with pytest.raises(ValueError, match="48 of 50"):
        make_reference(images, scene_features(), place)
