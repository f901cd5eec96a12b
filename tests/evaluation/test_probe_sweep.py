import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from vtp_eqx.evaluation.probe_sweep import (
    accuracies,
    Linears,
    start,
    step,
    Sweep,
    SweepConfig,
)


CONFIG = SweepConfig(rates=(0.1, 1.0), batch_size=8, num_epochs=2, epoch_steps=5)


def test_rates_scale_with_the_batch_and_fall_by_cosine_to_zero():
    config = SweepConfig(rates=(0.1, 0.2), batch_size=1024, num_epochs=2, epoch_steps=2)
    np.testing.assert_allclose(config.rates_at(0), [0.4, 0.8], rtol=1e-6)
    np.testing.assert_allclose(config.rates_at(2), [0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(config.rates_at(4), [0, 0], atol=1e-7)
    assert len(SweepConfig().rates) == 13
    assert SweepConfig().num_steps == 12500


def test_one_step_by_hand():
    # Weight 0: shares (1/2, 1/2), gradient of the logits (-1/2, 1/2) for label 0.
    linears = {"a": Linears(jnp.zeros((2, 1, 2)), jnp.zeros((2, 2)))}
    sweep = Sweep(linears, jax.tree.map(jnp.ones_like, linears))
    after = step(
        sweep, {"a": jnp.array([[3.0]])}, jnp.array([0]), jnp.array([0.1, 1.0]), 0.9
    )
    # Velocity 0.9 + 3 * (-1/2, 1/2) = (-0.6, 2.4); weight minus rate times that.
    np.testing.assert_allclose(
        after.linears["a"].weight[:, 0], [[0.06, -0.24], [0.6, -2.4]], rtol=1e-6
    )
    np.testing.assert_allclose(after.velocity["a"].bias, [[0.4, 1.4]] * 2, rtol=1e-6)


def test_classifiers_side_by_side_learn_as_each_alone():
    key = jr.key(0)
    rows = jr.normal(key, (8, 4))
    labels = jnp.arange(8) % 3
    widths = {"a": 4, "b": 2}
    sweep = start(CONFIG, widths, 3, key=key)
    weights = [
        (sweep.linears["b"].weight[i], sweep.linears["b"].bias[i]) for i in (0, 1)
    ]
    rates = jnp.asarray(CONFIG.rates)
    for _ in range(3):
        sweep = step(sweep, {"a": rows, "b": rows[:, :2]}, labels, rates, 0.9)

    def loss(pair):
        logits = rows[:, :2] @ pair[0] + pair[1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    for index, pair in enumerate(weights):
        optimizer = optax.sgd(CONFIG.rates[index], momentum=0.9)
        state = optimizer.init(pair)
        for _ in range(3):
            updates, state = optimizer.update(jax.grad(loss)(pair), state)
            pair = optax.apply_updates(pair, updates)
        np.testing.assert_allclose(sweep.linears["b"].weight[index], pair[0], atol=1e-6)
        np.testing.assert_allclose(sweep.linears["b"].bias[index], pair[1], atol=1e-6)


def test_accuracy_by_hand(monkeypatch):
    # Rate 0.1 copies the features to the logits, rate 1 swaps them.
    weight = jnp.stack([jnp.eye(2), jnp.eye(2)[::-1]])
    sweep = Sweep({"a": Linears(weight, jnp.zeros((2, 2)))}, {})
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], np.float32)
    labels = np.array([0, 1, 1])
    monkeypatch.setattr("vtp_eqx.evaluation.probe_sweep.EVALUATED", 2)
    got = accuracies(sweep, CONFIG, {"a": rows}, labels)
    assert got == {
        "a, rate 0.1": pytest.approx(2 / 3),
        "a, rate 1": pytest.approx(1 / 3),
    }


def test_a_sweep_without_steps_or_rates_is_refused():
    for changes in ({"rates": ()}, {"rates": (0.0,)}, {"num_epochs": 0}):
        with pytest.raises(ValueError, match="positive"):
            SweepConfig(**changes)
