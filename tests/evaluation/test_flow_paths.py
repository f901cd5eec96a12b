import equinox as eqx
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import DiTConfig
from vtp_eqx.evaluation import flow_paths
from vtp_eqx.evaluation.flow_paths import held_out_flow_loss, path_shapes
from vtp_eqx.models.dit import DiT


def test_a_straight_path_has_ones_however_fast_its_steps():
    ends = np.random.default_rng(0).normal(size=(2, 5, 2, 2, 3))
    t = np.array([0.0, 0.1, 0.5, 0.6, 1.0])[:, None, None, None, None]
    shapes = path_shapes((1 - t) * ends[0] + t * ends[1])
    for name in ("straightness", "efficiency"):
        np.testing.assert_allclose(shapes[name], np.ones(5), rtol=1e-12)


def test_bent_paths_by_hand_and_each_sample_by_itself():
    # Steps (3, 0), (0, 4), and then (3, 0), (-1, 0); cosines 0 and -1.
    corner, back = [[0, 0], [3, 0], [3, 4]], [[0, 0], [3, 0], [2, 0]]
    path = np.stack([corner, back], axis=1).astype(float)[:, :, None, None]
    shapes = path_shapes(path)
    np.testing.assert_allclose(shapes["straightness"], [0, -1], atol=1e-12)
    np.testing.assert_allclose(shapes["efficiency"], [5 / 7, 2 / 4])
    swapped = path_shapes(path[:, ::-1])
    np.testing.assert_array_equal(swapped["straightness"], [-1, 0])


def test_a_path_that_stays_is_no_error():
    shapes = path_shapes(np.zeros((3, 2, 1, 1, 2)))
    assert np.isfinite([*shapes.values()]).all()


@pytest.fixture(scope="module")
def dit():
    """A new transformer, whose velocity is zero."""
    config = DiTConfig(
        width=16, depth=1, num_heads=2, latent_width=3, latent_size=2, num_classes=4
    )
    return eqx.filter_jit(lambda key: DiT(config, key=key))(jr.key(0))


def test_the_loss_of_no_velocity_is_the_mean_square_of_data_minus_noise(dit):
    latents = 2 * np.random.default_rng(0).normal(size=(700, 2, 2, 3))
    labels = np.arange(700) % 4
    loss = lambda count, seed: held_out_flow_loss(
        dit, latents[:count].astype(np.float32), labels[:count],
        times=(0.0, 1.0), key=jr.key(seed),
    )  # fmt: skip
    # 2^2 of latents and 1 of noise.
    assert loss(700, 0) == pytest.approx(5, rel=0.05)
    assert loss(700, 0) == loss(700, 0) != loss(700, 1)
    # A batch that is not full counts each of its rows once.
    assert loss(260, 0) == pytest.approx(5, rel=0.1)


def test_times_are_logit_normal_and_independent_of_the_order_of_labels(
    dit, monkeypatch
):
    seen = []

    def squares(dit, data, label, t, key):
        seen.append((label, t))
        return np.zeros(len(data), np.float32)

    monkeypatch.setattr(flow_paths, "_squares", squares)
    latents, labels = np.zeros((4800, 2, 2, 3), np.float32), np.arange(4800) % 24
    held_out_flow_loss(dit, latents, labels, times=(-0.5, 2.0), key=jr.key(0))
    label, t = (np.concatenate(part) for part in zip(*seen, strict=True))
    logits = np.log(t / (1 - t))
    assert logits.mean() == pytest.approx(-0.5, abs=0.02)
    assert logits.std() == pytest.approx(2, rel=0.02)
    assert (np.bincount(label) == 40).all()
    of_classes = [logits[label == one].mean() for one in range(24)]
    assert np.std(of_classes) < 0.4
