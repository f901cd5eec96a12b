import dataclasses
import json

import equinox as eqx
import jax
import numpy as np
import pytest

from tests.training.examples import DECODE, encode, measured_tokenizer
from vtp_eqx.mesh import data_mesh
from vtp_eqx.runs.train_decoder import train_decoder


@pytest.fixture(scope="module")
def tokenizer(tiny, data):
    return measured_tokenizer(tiny.tokenizer, data)


def trained(tokenizer, data, folder, **changes):
    config = dataclasses.replace(DECODE, **changes)
    latents = encode(tokenizer, data)
    return train_decoder(
        config, tokenizer, data["image"], latents, folder=folder, mesh=data_mesh(2)
    )


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["reconstruction"] for line in lines]


@pytest.fixture(scope="module")
def decoded(tokenizer, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    return trained(tokenizer, data, folder), folder


def test_only_the_decoder_changes(decoded, tokenizer, data):
    found, _ = decoded
    assert found.config == dataclasses.replace(tokenizer.config, decoder=DECODE.decoder)
    np.testing.assert_array_equal(encode(found, data), encode(tokenizer, data))
    without = lambda one: eqx.tree_at(lambda one: one.decoder, one, None)
    for ours, theirs in zip(
        jax.tree.leaves(without(found)),
        jax.tree.leaves(without(tokenizer)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_it_learns_to_invert_the_latents_from_anywhere(
    decoded, tokenizer, data, tmp_path
):
    trained(tokenizer, data, tmp_path, linear_start=False)
    first, *_, last = losses(tmp_path)
    assert last < 0.8 * first
    # Least squares start where this does not even arrive.
    assert losses(decoded[1])[0] < last


def test_another_config_than_a_run_was_begun_with_is_refused(decoded, tokenizer, data):
    _, folder = decoded
    with pytest.raises(ValueError, match=r"^`config.latent_noise` \(0.5, was 0.0\)"):
        trained(tokenizer, data, folder, latent_noise=0.5)
