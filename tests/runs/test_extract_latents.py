"""Latents on disk: the same bits however they are made, or else refused."""

import dataclasses
import errno
import json
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from vtp_eqx.config import LatentsConfig
from vtp_eqx.data.folders import FolderSource
from vtp_eqx.data.latents import check_checksums, LatentIndex
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.evaluation.latent_statistics import measure_latents
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.arrays import latents_hash
from vtp_eqx.runs import extract_latents as module
from vtp_eqx.runs.extract_latents import extract_latents, open_latents
from vtp_eqx.runs.run_dir import DiskSpaceError


SHARDS = LatentsConfig(shard_images=8)
ONE = {"mesh": data_mesh(1), "device_images": 8, "num_threads": 2}


@pytest.fixture(scope="module")
def whole(tokenizer, images, tmp_path_factory):
    """A folder of latents, the measured tokenizer, and the index."""
    folder = tmp_path_factory.mktemp("whole") / "latents"
    return folder, *extract_latents(SHARDS, tokenizer, images, folder, **ONE)


def content(folder):
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.suffix in (".npy", ".json", ".safetensors", ".pt")
    }


def test_each_image_and_its_mirror_image_are_there_once(whole, tokenizer, images):
    folder, _, index = whole
    cache = open_latents(folder)
    assert (len(cache), cache.num_views, cache.shape) == (22, 2, (2, 2, 4))
    np.testing.assert_array_equal(cache.labels, np.arange(22) % 5)
    pixels = images.arrays["image"] / np.float32(255)
    for view, turned in enumerate((pixels, pixels[:, :, ::-1])):
        expected = jax.vmap(tokenizer.encode)(jnp.asarray(turned))
        found = cache.read(np.arange(22), np.full(22, view))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    rows = [np.load(path)[:, 0] for path in sorted(folder.glob("examples-*.npy"))]
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(22))
    assert [record.count for record in index.shards] == [8, 8, 6]
    assert index.rms_error == 0


def test_statistics_are_the_exact_ones_and_bind_the_latents(
    whole, tokenizer, images, tmp_path
):
    folder, measured, index = whole
    other, _ = measure_latents(tokenizer, images, tmp_path, mesh=data_mesh(1))
    assert eqx.tree_equal(measured, other)
    assert (
        index.latents_hash == latents_hash(other) == open_latents(folder).latents_hash
    )
    np.testing.assert_array_equal(index.mean, other.latent_mean)


def test_devices_and_batches_change_no_bit(whole, tokenizer, images, tmp_path):
    extract_latents(
        SHARDS, tokenizer, images, tmp_path, mesh=data_mesh(4), device_images=3,
        num_threads=3,
    )  # fmt: skip
    assert content(tmp_path) == content(whole[0])


def test_a_full_disk_loses_nothing_and_the_same_call_goes_on(
    whole, tokenizer, images, tmp_path, monkeypatch
):
    write, made = module.write_npy_shard, []

    def full(folder, number, *rest):
        if number == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        made.append(number)
        return write(folder, number, *rest)

    call = lambda: extract_latents(SHARDS, tokenizer, images, tmp_path, **ONE)
    monkeypatch.setattr(module, "write_npy_shard", full)
    with pytest.raises(DiskSpaceError, match=r"a full disk .* run the same command"):
        call()
    with pytest.raises(ValueError, match="not complete: run the same extraction"):
        open_latents(tmp_path)
    monkeypatch.setattr(module, "write_npy_shard", write)
    # What a kill in the middle of a shard leaves: files, but no record.
    (tmp_path / "latents-00001.npy").write_bytes(b"torn")
    (tmp_path / ".latents-00002.npy.0123abcd").write_bytes(b"torn")
    call()
    assert not [*tmp_path.glob(".*.npy.*")]
    assert made == [0]
    assert content(tmp_path) == content(whole[0])


def test_a_shard_cut_short_is_named_and_made_anew(tokenizer, images, tmp_path):
    call = lambda: extract_latents(SHARDS, tokenizer, images, tmp_path, **ONE)
    call()
    shard = tmp_path / "latents-00001.npy"
    before = shard.read_bytes()
    shard.write_bytes(before[:-4])
    with pytest.raises(ValueError, match=r"The shard .*latents-00001.npy must have"):
        open_latents(tmp_path)
    call()
    assert shard.read_bytes() == before
    index = LatentIndex.read(tmp_path)
    check_checksums(tmp_path, index)
    shard.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"latents-00001.npy must have the checksum"):
        check_checksums(tmp_path, index)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"limit": [[]]},
            r"damaged or of something else \(`limit` .* of a LatentIndex",
        ),
        ({"format": "another"}, "another format than 'vtp_eqx latents 1'"),
        ({"views": ["image"]}, r"^All latents of a folder have 1 views and statistics"),
        ({"mean": [0.0]}, r"got latents \[\(2, 2, 2, 4\)\], 1 means and 4 deviations"),
    ],
)
def test_an_index_that_contradicts_its_shards_is_refused(
    changes, message, whole, tmp_path
):
    folder = shutil.copytree(whole[0], tmp_path / "latents")
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        open_latents(folder)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "examples-00000.npy",
            np.zeros((8, 2)),
            r"as many rows and labels; got float32",
        ),
        ("latents-00000.npy", np.zeros((8, 2, 2, 2, 4), np.int32), r"; got int32 \(8,"),
        (
            "latents-00000.npy",
            np.zeros((7, 2, 2, 2, 4), np.float32),
            r"\(7, 2, 2, 2, 4",
        ),
        ("latents-00000.npy", None, r"must be a whole array; got text that begins"),
    ],
)
def test_a_shard_that_holds_something_else_is_refused(
    name, array, message, whole, tmp_path
):
    folder = shutil.copytree(whole[0], tmp_path / "latents")
    if array is None:
        (folder / name).write_text("text")
    else:
        np.save(folder / name, array)
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0]["files"][name][0] = (folder / name).stat().st_size
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"^The shard .*{message}"):
        open_latents(folder)


def test_another_tokenizer_or_other_settings_are_refused(whole, tokenizer, images):
    folder = whole[0]
    weight = lambda tokenizer: tokenizer.bottleneck.weight
    other = eqx.tree_at(weight, tokenizer, weight(tokenizer) * np.float32(1.001))
    with pytest.raises(ValueError, match=r"^`encoder_hash` .* restore the old values"):
        extract_latents(SHARDS, other, images, folder, **ONE)
    half = dataclasses.replace(SHARDS, dtype="float16")
    with pytest.raises(ValueError, match=r"^`dtype` \(float16, was float32\)"):
        extract_latents(half, tokenizer, images, folder, **ONE)


@pytest.mark.parametrize(
    ("dtype", "size", "worst"), [("float16", 2, 5e-4), ("uint8", 1, 8e-3)]
)
def test_fewer_bits_cost_what_the_index_says(
    dtype, size, worst, whole, tokenizer, images, tmp_path
):
    config = dataclasses.replace(SHARDS, dtype=dtype)
    _, index = extract_latents(config, tokenizer, images, tmp_path, **ONE)
    stored = np.load(tmp_path / "latents-00000.npy")
    assert (stored.dtype.itemsize, stored.shape) == (size, (8, 2, 2, 2, 4))
    every = [np.tile(np.arange(22), 2), np.repeat([0, 1], 22)]
    exact, found = (open_latents(f).read(*every) for f in (whole[0], tmp_path))
    error = np.sqrt(np.mean(((found - exact) / np.array(index.std)) ** 2))
    np.testing.assert_allclose(index.rms_error, error, rtol=1e-3)
    assert 0 < index.rms_error < worst
    # Statistics are those of the latents, not of what is stored of them.
    assert index.latents_hash == whole[2].latents_hash


@pytest.mark.parametrize("layout", ["npy", "lightningdit"])
def test_one_scaling_factor_changes_statistics_alone(
    layout, tokenizer, images, tmp_path
):
    config = dataclasses.replace(SHARDS, layout=layout)
    own, _ = extract_latents(config, tokenizer, images, tmp_path, **ONE)
    shards = [*tmp_path.glob("latents-*.npy"), *tmp_path.glob("*.safetensors")]
    before = {path: path.stat().st_mtime_ns for path in shards}
    assert len(before) == 3
    one = dataclasses.replace(config, one_scaling_factor=True)
    scaled, index = extract_latents(one, tokenizer, images, tmp_path, **ONE)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert eqx.tree_equal(scaled, own.with_one_scaling_factor())
    cache = open_latents(tmp_path)
    assert cache.latents_hash == index.latents_hash == latents_hash(scaled)
    np.testing.assert_array_equal(cache.std, scaled.latent_std)
    assert len({*cache.std.tolist()}) == 1 < len({*own.latent_std.tolist()})
    if layout == "lightningdit":  # its trainer reads this file alone
        for path in tmp_path.glob("*.json"):
            path.unlink()
        np.testing.assert_array_equal(open_latents(tmp_path).std, cache.std)
    again, _ = extract_latents(config, tokenizer, images, tmp_path, **ONE)
    assert eqx.tree_equal(again, own)


def test_augmented_views_are_a_function_of_seed_and_image(tokenizer, tmp_path):
    draw = np.random.default_rng(1)
    large = draw.integers(0, 256, (6, 24, 30, 3)).astype(np.uint8)
    config = LatentsConfig(views="augmented", num_augmented=2, shard_images=4)
    source = ArraySource({"image": large})
    for name, options in {"a": ONE, "b": {**ONE, "device_images": 2}}.items():
        extract_latents(config, tokenizer, source, tmp_path / name, **options)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    cache = open_latents(tmp_path / "a")
    views = [cache.read(np.arange(6), np.full(6, view)) for view in range(3)]
    assert cache.num_views == 3
    assert all(np.abs(views[0] - view).max() > 0.01 for view in views[1:])
    with pytest.raises(ValueError, match=r"labels from -1 \(-1: none\) to -1"):
        cache.check_labels(5)


def test_unreadable_images_are_left_out_and_other_labels_refused(
    tokenizer, images, tmp_path
):
    for row, image in enumerate(images.arrays["image"][:6]):
        (tmp_path / "set" / f"class{row % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "set" / f"class{row % 2}" / f"{row}.png")
    (tmp_path / "set" / "class1" / "bad.png").write_bytes(b"torn")
    source = FolderSource(tmp_path / "set")
    _, index = extract_latents(SHARDS, tokenizer, source, tmp_path / "a", **ONE)
    assert (index.num_images, index.num_skipped) == (6, 1)
    assert index.class_names == ("class0", "class1")
    np.testing.assert_array_equal(
        open_latents(tmp_path / "a").labels, [0, 0, 0, 1, 1, 1]
    )
    with pytest.raises(ValueError, match=r"Labels must be 0 to 0, of the 1 classes"):
        extract_latents(
            SHARDS, tokenizer, source, tmp_path / "b", class_names=["only"], **ONE
        )


def test_images_made_again_under_the_same_names_are_not_the_latents(
    tokenizer, images, tmp_path
):
    paths = [tmp_path / "set" / "one" / f"{row}.bmp" for row in range(3)]
    paths[0].parent.mkdir(parents=True)
    for path, image in zip(paths, images.arrays["image"], strict=False):
        Image.fromarray(image).save(path)  # of one size, whatever they show
    source = FolderSource(tmp_path / "set")
    folder = tmp_path / "latents"
    _, index = extract_latents(SHARDS, tokenizer, source, folder, **ONE)
    Image.fromarray(images.arrays["image"][5]).save(paths[1])
    source = FolderSource(tmp_path / "set")
    assert source.fingerprint == index.source
    with pytest.raises(ValueError, match=r"were begun with; some were written again"):
        extract_latents(SHARDS, tokenizer, source, folder, **ONE)


def test_latents_that_are_not_finite_are_refused(tokenizer, images, tmp_path):
    weight = lambda tokenizer: tokenizer.bottleneck.weight
    broken = eqx.tree_at(weight, tokenizer, weight(tokenizer) * np.float32(np.nan))
    with pytest.raises(ValueError, match=r"Latents must be finite; got NaN .* shard 0"):
        extract_latents(SHARDS, broken, images, tmp_path, **ONE)


def test_a_folder_for_lightningdit_holds_the_same_latents(
    whole, tokenizer, images, tmp_path
):
    config = dataclasses.replace(SHARDS, layout="lightningdit")
    _, index = extract_latents(config, tokenizer, images, tmp_path, **ONE)
    assert index.latents_hash == whole[2].latents_hash
    ours, theirs = open_latents(whole[0]), open_latents(tmp_path)
    rows, views = np.arange(22), np.arange(22) % 2
    np.testing.assert_array_equal(ours.read(rows, views), theirs.read(rows, views))
    # As a folder that LightningDiT's own extractor wrote: without our files.
    for path in tmp_path.glob("*.json"):
        path.unlink()
    plain = open_latents(tmp_path)
    np.testing.assert_array_equal(plain.labels, ours.labels)
    np.testing.assert_array_equal([plain.mean, plain.std], [ours.mean, ours.std])
    assert plain.latents_hash == ""
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(ValueError, match=rf"The shard .*{shard.name} must be a whole"):
        open_latents(tmp_path)
