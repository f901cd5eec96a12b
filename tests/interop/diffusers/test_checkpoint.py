"""A tokenizer as a state dict and settings, and back."""

import json
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.interop.diffusers.variants import random_tokenizer
from vtp_eqx.interop.diffusers import (
    tokenizer_from_diffusers,
    tokenizer_to_diffusers,
)
from vtp_eqx.models.arrays import named_arrays


GOLDEN = Path(__file__).parents[2] / "golden" / "diffusers"


@pytest.fixture(scope="module")
def mixed():
    return random_tokenizer("mixed")


@pytest.mark.parametrize("name", ["published", "mixed", "wide"])
def test_a_tokenizer_survives_the_round_trip(name):
    tokenizer = random_tokenizer(name)
    tensors, settings = tokenizer_to_diffusers(tokenizer)
    settings = json.loads(json.dumps(settings))
    assert eqx.tree_equal(tokenizer_from_diffusers(tensors, settings), tokenizer)
    written = sum(tensor.size for tensor in tensors.values())
    held = sum(array.size for array in named_arrays(tokenizer).values())
    assert written == held - 2 * tokenizer.config.latent_width


@pytest.mark.parametrize("name", ["mixed", "wide"])
def test_what_was_written_once_comes_back_as_it_was(name):
    before = load_file(GOLDEN / name / "diffusion_pytorch_model.safetensors")
    settings = json.loads((GOLDEN / name / "config.json").read_text())
    tokenizer = tokenizer_from_diffusers(before, settings)
    after, described = tokenizer_to_diffusers(tokenizer)
    assert described == settings
    assert after.keys() == before.keys()
    for path, tensor in before.items():
        assert after[path].tobytes() == tensor.tobytes(), path


def test_a_patch_is_written_color_by_color(mixed):
    tensors, _ = tokenizer_to_diffusers(mixed)
    ours, theirs = mixed.encoder.patch_embed.weight, tensors["encoder.embed.weight"]
    color, row, column, size = 2, 1, 3, mixed.config.patch_size
    first = theirs[:, (color * size + row) * size + column]
    np.testing.assert_array_equal(first, ours[:, (row * size + column) * 3 + color])
    ours, theirs = mixed.decoder.to_pixels.bias, tensors["decoder.out.bias"]
    assert (
        theirs[(color * size + row) * size + column]
        == ours[(row * size + column) * 3 + color]
    )


def test_the_origin_of_a_published_tokenizer_is_kept(mixed):
    object.__setattr__(mixed, "origin", '{"settings": {}, "constants": {}}')
    try:
        tensors, settings = tokenizer_to_diffusers(mixed)
        assert tokenizer_from_diffusers(tensors, settings).origin == mixed.origin
    finally:
        object.__setattr__(mixed, "origin", "")
    with pytest.raises(ValueError, match=r"^`origin` \(3\) must be a text"):
        tokenizer_from_diffusers(tensors, settings | {"origin": 3})


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (0.0, 1.0, r"^`tokenizer` .* must have measured latent statistics"),
        (0.5, 0.0, r"^`latents_std` \(0\.0 in one channel\) must be positive"),
        (0.5, -1.0, r"^`latents_std` \(-1\.0 in one channel\) must be positive"),
        (0.5, np.nan, r"^`latents_std` is one finite number for each of 5 channels"),
        (np.inf, 1.0, r"^`latents_mean` is one finite number for each of 5 channels"),
    ],
)
def test_latents_without_statistics_are_not_written(mean, std, message, mixed):
    wrong = mixed.with_statistics(jnp.full(5, mean), jnp.full(5, std))
    with pytest.raises(ValueError, match=message):
        tokenizer_to_diffusers(wrong)


def test_rounded_weights_are_not_written(mixed):
    with pytest.raises(ValueError, match="got one of bfloat16"):
        tokenizer_to_diffusers(mixed.at_precision("bfloat16"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"more": np.zeros(3, np.float32)}, r"\[more\] too many"),
        ({"decoder.out.bias": None}, r"\[decoder\.out\.bias\] missing"),
        ({"decoder.out.bias": np.zeros(5, np.float32)}, r"bias \(5,\) for \(48,\)"),
        ({"decoder.out.bias": np.zeros(48, int)}, "got int64 for `decoder.out.bias`"),
    ],
)
def test_tensors_that_do_not_fit_are_named(changes, message, mixed):
    tensors, settings = tokenizer_to_diffusers(mixed)
    wrong = {n: t for n, t in (tensors | changes).items() if t is not None}
    with pytest.raises(ValueError, match=message):
        tokenizer_from_diffusers(wrong, settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents_std": None}, r"^`latents_std` is one finite number .* got None"),
        ({"latents_mean": [0.0] * 4}, r"^`latents_mean` is one finite number"),
        ({"latents_std": [1.0, 0.0, 1, 1, 1]}, r"^`latents_std` \(0\.0 in one"),
        ({"latent_channels": 900_000}, "shapes that their config describes"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes, message, mixed):
    tensors, settings = tokenizer_to_diffusers(mixed)
    if "latent_channels" in changes:
        for name in ("latents_mean", "latents_std"):
            settings[name] = [1.0] * 900_000
    with pytest.raises(ValueError, match=message):
        tokenizer_from_diffusers(tensors, settings | changes)
