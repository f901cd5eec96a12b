import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vtp_eqx.models.weights import load_weights, read_notes, save_weights
from vtp_eqx.nn.feed_forward import MLP


@pytest.fixture(scope="module")
def model():
    return eqx.filter_jit(lambda key: MLP(2, 3, key=key))(jr.key(0))


@pytest.fixture
def path(model, tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    save_weights(model, path, {"made": "by hand"})
    return path


def changed(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_weights_survive_a_file(model, path):
    assert eqx.tree_equal(
        load_weights(jax.tree.map(jnp.zeros_like, model), path), model
    )


def test_a_skeleton_is_enough_to_load(model, path):
    skeleton = eqx.filter_eval_shape(lambda: MLP(2, 3, key=jr.key(1)))
    assert eqx.tree_equal(load_weights(skeleton, path), model)


def test_notes_survive_too(model, path, tmp_path):
    assert read_notes(path) == {"made": "by hand"}
    bare = tmp_path / "bare.safetensors"
    save_weights(model, bare)
    assert read_notes(bare) == {}


def test_nothing_but_the_file_is_left_behind(path):
    assert [found.name for found in path.parent.iterdir()] == ["model.safetensors"]


def test_a_missing_file_is_an_error(model, tmp_path):
    with pytest.raises(FileNotFoundError):
        load_weights(model, tmp_path / "none.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_a_file_cut_short_is_an_error(share, model, path):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="A safetensors file"):
        load_weights(model, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.pop("up.bias"), r"\[\] too many and \[up.bias\] missing"),
        (
            lambda file: file.update(more=np.zeros(1, np.float32)),
            r"\[more\] too many and \[\] missing",
        ),
        (
            lambda file: file.update({"up.bias": np.zeros(4, np.float32)}),
            r"up.bias \(4,\) for \(3,\)",
        ),
    ],
)
def test_tensors_other_than_the_models_are_named(change, message, model, path):
    changed(path, change)
    with pytest.raises(ValueError, match=message):
        load_weights(model, path)
