"""Sampling by a trained transformer, and what it refuses."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import (
    as_json,
    decoder_like,
    DiTConfig,
    SamplerConfig,
    TokenizerConfig,
    TransformerConfig,
)
from vtp_eqx.models.arrays import latents_hash, statistics_hash
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import (
    Generator,
    guided_velocity,
    load_generator,
    sample_latents,
    save_generator,
)
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.models.weights import save_weights


LABELS = jnp.array([0, 3], jnp.int32)
SAMPLER = SamplerConfig(num_steps=2)


@pytest.fixture(scope="module")
def generator():
    config = DiTConfig(
        width=16, depth=1, num_heads=2, latent_width=3, latent_size=2, num_classes=4
    )
    dit = eqx.filter_jit(lambda key: DiT(config, key=key))(jr.key(0))
    return Generator(dit, latents_hash="abc")


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_new_generator_returns_its_noise(generator, solver, getkey):
    # Its velocity is zero, guided or not.
    key = getkey()
    sampler = dataclasses.replace(SAMPLER, solver=solver, guidance=2.0)
    latents = generator.sample(LABELS, sampler, latents_hash="abc", key=key)
    np.testing.assert_array_equal(latents, jr.normal(key, (2, 2, 2, 3)))


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_trajectory_leads_from_noise_to_the_sample(generator, solver, getkey):
    key, sampler = getkey(), dataclasses.replace(SAMPLER, solver=solver)
    draw = dict(latents_hash="abc", key=key)
    points = trained(generator, 1).trajectory(LABELS, sampler, **draw)
    assert points.shape == (3, 2, 2, 2, 3)
    np.testing.assert_array_equal(points[0], jr.normal(key, (2, 2, 2, 3)))
    latents = trained(generator, 1).sample(LABELS, sampler, **draw)
    np.testing.assert_array_equal(points[-1], latents)
    assert np.abs(points[-1] - points[0]).max() > 0.01


def test_an_adaptive_solver_has_no_trajectory(generator, getkey):
    sampler = SamplerConfig(solver="dopri5", num_steps=64, time_shift=0.0)
    with pytest.raises(ValueError, match=r"`sampler.solver` \('dopri5'\)"):
        generator.trajectory(LABELS, sampler, latents_hash="abc", key=getkey())


def test_other_latents_are_refused(generator, getkey):
    with pytest.raises(ValueError, match=r"^`latents_hash` \('abd'\) .*'abc'.*: load"):
        generator.sample(LABELS, SAMPLER, latents_hash="abd", key=getkey())


def test_latents_of_unknown_name_are_refused(generator, getkey):
    published = Generator(generator.dit, latents_hash="")
    with pytest.raises(ValueError, match=r"^`latents_hash` \(''\)"):
        published.sample(LABELS, SAMPLER, latents_hash="", key=getkey())


def trained(generator, seed):
    """The generator with weights at which its velocity is not zero."""
    rng = np.random.default_rng(seed)
    dit = jax.tree.map(
        lambda leaf: leaf + np.float32(0.1 * rng.normal(size=leaf.shape)), generator.dit
    )
    return dataclasses.replace(generator, dit=dit)


def test_autoguidance_leads_away_from_the_weaker_generator(generator):
    strong, weak = trained(generator, 0), trained(generator, 1)
    sampler = SamplerConfig(num_steps=1, guidance=3.0, guide="generator")
    noise = jr.normal(jr.key(5), (2, 2, 2, 3))
    at_start = jnp.zeros(2)
    conditional, other = (
        eqx.filter_jit(one.dit.batch)(noise, at_start, LABELS) for one in (strong, weak)
    )
    reached = sample_latents(strong.dit, LABELS, noise, sampler, weak.dit)
    expected = noise + other + 3 * (conditional - other)
    np.testing.assert_allclose(reached, expected, rtol=1e-4, atol=1e-5)


def test_a_sample_of_the_adaptive_solver_depends_on_no_other(generator):
    strong = trained(generator, 0)
    sampler = SamplerConfig(solver="dopri5", time_shift=0, guidance=2.0)
    noise = jr.normal(jr.key(5), (2, 2, 2, 3))
    # Stiff company, which needs shorter steps.
    both = sample_latents(strong.dit, LABELS, noise.at[1].mul(50), sampler)
    calm = sample_latents(strong.dit, LABELS, noise, sampler)
    np.testing.assert_array_equal(both[0], calm[0])


def test_a_guide_of_other_latents_or_shape_is_refused(generator):
    other = Generator(generator.dit, latents_hash="abd")
    with pytest.raises(ValueError, match=r"^`guide` \(latents 'abd'\) must generate"):
        generator.check_guide(other)
    config = dataclasses.replace(generator.dit.config, num_classes=5)
    dit = eqx.filter_jit(DiT)(config, key=jr.key(0))
    other = Generator(dit, latents_hash="abc")
    with pytest.raises(ValueError, match=r"^`guide` \(.*\(2, 3, 5\)\) must be made"):
        generator.check_guide(other)
    with pytest.raises(ValueError, match=r"^`guide` \(none\) must be given where"):
        guided_velocity(
            generator.dit, LABELS, SamplerConfig(guide="generator", guidance=2.0)
        )
    with pytest.raises(ValueError, match=r"^`guide` \(a generator\) must be given"):
        guided_velocity(generator.dit, LABELS, SAMPLER, generator.dit)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"solver": "dopri5"}, r"^`time_shift` \(0.075\) must be 0 for dopri5"),
        ({"tolerance": 1e-4}, r"^`tolerance` \(0.0001, .* for euler"),
        ({"guide": "generator"}, r"^`guidance` \(1\) must be another"),
        ({"guidance": float("nan")}, r"^`guidance` \(nan\) must be a finite number"),
        ({"guidance_start": 0.5, "guidance_end": 0.3}, r"^`guidance_start` \(0.5\)"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SamplerConfig(**fields)


@pytest.mark.parametrize("label", [-1, 5])
def test_labels_that_do_not_exist_are_refused(generator, label):
    with pytest.raises(ValueError, match="Labels are 0 to 3, and 4 for any class"):
        guided_velocity(generator.dit, jnp.array([label]), SAMPLER)


def test_a_saved_generator_is_loaded_to_the_last_bit(generator, tmp_path):
    path = tmp_path / "generator.safetensors"
    save_generator(generator, path)
    assert eqx.tree_equal(load_generator(path), generator)


@pytest.fixture(scope="module")
def tokenizer():
    tower = TransformerConfig(width=16, depth=1, num_heads=2)
    config = TokenizerConfig(
        encoder=tower, decoder=decoder_like(tower), patch_size=4, latent_width=3
    )
    made = eqx.filter_jit(Tokenizer)(config, key=jr.key(0))
    return eqx.tree_at(lambda t: t.latent_std, made, jnp.full(3, 2.0))


def test_a_generator_is_loaded_for_the_tokenizer_it_was_trained_with(
    generator, tokenizer, tmp_path
):
    path = tmp_path / "generator.safetensors"
    bound = Generator(generator.dit, latents_hash(tokenizer))
    save_generator(bound, path)
    assert eqx.tree_equal(load_generator(path, tokenizer), bound)
    # Of the same statistics, as all were that never had any.
    other = eqx.tree_at(
        lambda t: t.bottleneck.weight, tokenizer, 2 * tokenizer.bottleneck.weight
    )
    with pytest.raises(ValueError, match=r"the one that the generator in .*: load"):
        load_generator(path, other)


def test_a_generator_with_a_hash_of_statistics_is_bound_anew_by_its_tokenizer(
    generator, tokenizer, tmp_path
):
    path = tmp_path / "generator.safetensors"

    def save(name):
        notes = {"config": as_json(generator.dit.config), "latents": name}
        save_weights(generator.dit, path, notes)

    save(statistics_hash(tokenizer))
    found = load_generator(path, tokenizer)
    assert found.latents_hash == latents_hash(tokenizer)
    assert eqx.tree_equal(found.dit, generator.dit)
    with pytest.raises(ValueError, match=r"^`tokenizer` \(None\) .* statistics alone"):
        load_generator(path)
    other = eqx.tree_at(lambda t: t.latent_mean, tokenizer, jnp.ones(3))
    with pytest.raises(ValueError, match=r"the one that the generator in .*: load"):
        load_generator(path, other)
    unmeasured = eqx.tree_at(lambda t: t.latent_std, tokenizer, jnp.ones(3))
    save(statistics_hash(unmeasured))
    with pytest.raises(ValueError, match="must have measured latent statistics"):
        load_generator(path, unmeasured)
    save("")  # a published transformer
    assert load_generator(path).latents_hash == ""


def test_another_file_is_no_generator(generator, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(generator.dit, path, {"latents_hash": "abc"})
    with pytest.raises(ValueError, match=r"got \['latents_hash'\] in"):
        load_generator(path)
    for config in ("{", "[]", as_json(generator.dit.config).replace("16", "null")):
        save_weights(generator.dit, path, {"latents_hash": "abc", "config": config})
        with pytest.raises(
            ValueError, match=r"^A saved generator has a note on its sh"
        ):
            load_generator(path)
    with pytest.raises(FileNotFoundError, match=r"got no none\.safetensors"):
        load_generator(tmp_path / "none.safetensors")
