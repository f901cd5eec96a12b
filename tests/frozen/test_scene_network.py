import dataclasses
import hashlib
import json
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.frozen.scene_network import (
    CLASS_SIZES,
    HEADS,
    load_scene_network,
    RECORD,
    save_scene_network,
    scene_network_hash,
    SceneNetwork,
    SceneNetworkConfig,
    shipped,
    SHIPPED_SIZES,
    WEIGHTS,
)
from vtp_eqx.scenes.render import NAMES
from vtp_eqx.study.recipe import LAPTOP


TINY = SceneNetworkConfig(
    image_size=16, widths=(8, 8), blocks=(1, 0), squeezed_width=4, feature_width=16
)


read = eqx.filter_jit(lambda network, image: network(image))


@pytest.fixture(scope="module")
def network():
    return eqx.filter_jit(SceneNetwork)(TINY, key=jr.key(0))


@pytest.fixture
def folder(network, tmp_path):
    save_scene_network(network, tmp_path, {"shape": 0.5}, {"seed": 0})
    return tmp_path


def test_a_reading_has_features_and_every_attribute(network, getkey):
    reading = read(network, jr.uniform(getkey(), (16, 16, 3)))
    assert reading.features.shape == (16,)
    assert (reading.features >= 0).all()
    sizes = {name: logits.shape for name, logits in reading.logits.items()}
    assert sizes == {name: (len(values),) for name, values in NAMES.items()}


def test_every_weight_is_read(network, getkey):
    image = jr.uniform(getkey(), (4, 16, 16, 3))

    @eqx.filter_jit
    @eqx.filter_grad
    def gradients(network):
        reading = jax.vmap(network)(image)
        return sum(jnp.sum(logits**2) for logits in reading.logits.values())

    leaves = jax.tree.leaves(gradients(network))
    assert all((leaf != 0).any() for leaf in leaves)


def test_where_things_are_is_not_lost(network, getkey):
    image = jnp.zeros((16, 16, 3)).at[2:6, 2:6].set(1.0)
    moved = jnp.roll(image, 8, axis=1)
    difference = read(network, image).features - read(network, moved).features
    assert jnp.abs(difference).max() > 1e-3


def test_another_size_is_an_error(network):
    with pytest.raises(ValueError, match=r"\(16, 16, 3\)"):
        network(jnp.zeros((32, 32, 3)))
    with pytest.raises(ValueError, match=r"\(16, 16, 3\)"):
        network(jnp.zeros((4, 16, 16, 3)))
    with pytest.raises(ValueError, match="divide by 255"):
        network(jnp.zeros((16, 16, 3), jnp.uint8))
    with pytest.raises(ValueError, match="multiple of 4"):
        SceneNetworkConfig(image_size=18, widths=(8, 8), blocks=(1, 1))
    with pytest.raises(ValueError, match="pair them"):
        SceneNetworkConfig(widths=(8, 8), blocks=(1,))


def test_what_is_saved_comes_back(network, folder):
    assert eqx.tree_equal(load_scene_network(folder), network)
    content = (folder / WEIGHTS).read_bytes()
    assert scene_network_hash(folder) == hashlib.sha256(content).hexdigest()
    assert sorted(file.name for file in folder.iterdir()) == [RECORD, WEIGHTS]


def test_saving_twice_gives_the_same_bytes(network, folder):
    first = (folder / WEIGHTS).read_bytes()
    save_scene_network(network, folder, {}, {})
    assert (folder / WEIGHTS).read_bytes() == first


@pytest.mark.parametrize("damage", ["truncated", "altered", "replaced"])
def test_other_weights_than_the_recorded_are_refused(damage, network, folder):
    content = (folder / WEIGHTS).read_bytes()
    if damage == "truncated":
        content = content[:-100]
    elif damage == "altered":
        content = content[:-1] + bytes([content[-1] ^ 1])
    else:
        other = folder / "other"
        network = eqx.filter_jit(SceneNetwork)(TINY, key=jr.key(1))
        save_scene_network(network, other, {}, {})
        content = (other / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match="sha256"):
        load_scene_network(folder)


@pytest.mark.parametrize("name", [WEIGHTS, RECORD])
def test_a_missing_file_is_named(name, folder):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=name):
        load_scene_network(folder)


def test_a_record_of_another_shape_is_refused(folder):
    record = json.loads((folder / RECORD).read_text())
    record["config"]["feature_width"] = 8
    (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(
        ValueError, match=r"heads\.shape\.weight \(\d+, 16\) for \(\d+, 8\)"
    ):
        load_scene_network(folder)
    record["config"]["blocks"] = [1, 1]
    (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(ValueError, match="blocks"):
        load_scene_network(folder)


@pytest.mark.parametrize(
    ("target", "size"),
    [("attributes", size) for size in SHIPPED_SIZES]
    + [("class", size) for size in CLASS_SIZES],
)
def test_the_shipped_networks_are_whole_and_small(target, size, tmp_path):
    folder = shipped(size, target)
    network = load_scene_network(folder)
    assert (network.config.image_size, network.config.heads) == (size, HEADS[target])
    record = json.loads((folder / RECORD).read_text())
    assert record["accuracy"].keys() == dict(HEADS[target]).keys() == {*network.heads}
    assert min(record["accuracy"].values()) >= 0.97
    # Of scenes as hard as the studies'.
    assert record["trained_on"]["scenes"]["difficulty"] == LAPTOP.data.difficulty
    assert (folder / WEIGHTS).stat().st_size < 1_500_000
    shutil.copytree(folder, tmp_path / "copy")
    assert eqx.tree_equal(load_scene_network(tmp_path / "copy"), network)
    leaves = jax.tree.leaves(eqx.filter(network, eqx.is_array))
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_a_size_without_a_network_is_refused():
    with pytest.raises(ValueError, match=r"`image_size` \(48\).*\(32, 64\)"):
        shipped(48)
    with pytest.raises(ValueError, match=r"`image_size` \(64\).*\(32,\)"):
        shipped(64, "class")


def test_a_network_of_the_class_predicts_nothing_else(getkey, tmp_path):
    config = dataclasses.replace(TINY, heads=HEADS["class"])
    network = eqx.filter_jit(SceneNetwork)(config, key=getkey())
    reading = read(network, jr.uniform(getkey(), (16, 16, 3)))
    assert {name: of.shape for name, of in reading.logits.items()} == {"class": (24,)}
    save_scene_network(network, tmp_path, {"class": 0.5}, {})
    assert eqx.tree_equal(load_scene_network(tmp_path), network)
