"""`config.json` in the words of diffusers' autoencoders."""

import json

import pytest

from tests.interop.diffusers.variants import CONFIGS
from vtp_eqx.interop.diffusers.settings import (
    config_from_diffusers,
    config_to_diffusers,
)


MIXED = config_to_diffusers(CONFIGS["mixed"])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_config_survives_the_round_trip(config):
    settings = json.loads(json.dumps(config_to_diffusers(config)))
    assert config_from_diffusers(settings) == config


def test_words_are_those_of_diffusers_where_it_has_them():
    expected = {
        "_class_name": "AutoencoderVTP", "in_channels": 3, "out_channels": 3,
        "latent_channels": 5, "sample_size": 24, "patch_size": 4, "scaling_factor": 1.0,
        "pixel_mean": [0.5, 0.4, 0.3], "rope": "float32",
    }  # fmt: skip
    assert expected.items() <= MIXED.items()
    assert "_diffusers_version" not in MIXED  # diffusers did not write it
    # Heads of 12 and of 4 numbers: 100 ** (4i / d).
    assert MIXED["encoder"]["rope_periods"] == pytest.approx(
        [1, 100 ** (1 / 3), 100 ** (2 / 3)]
    )
    assert MIXED["decoder"]["rope_periods"] == [1.0]


def test_what_diffusers_and_the_hub_add_is_ignored():
    added = {"_diffusers_version": "0.42.1", "_name_or_path": "somewhere"}
    assert config_from_diffusers(MIXED | added) == CONFIGS["mixed"]


def test_statistics_belong_to_the_tensors():
    statistics = {"latents_mean": [0.0], "latents_std": [1.0], "origin": "{}"}
    assert config_from_diffusers(MIXED | statistics) == CONFIGS["mixed"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "AutoencoderKL"}, r"^`_class_name` \('AutoencoderKL'\) must"),
        ({"block_out_channels": [64]}, r"got also \['block_out_channels'\]"),
        ({"latent_width": 5}, r"got also \['latent_width'\]"),
        ({"scaling_factor": 0.18}, r"^`scaling_factor` \(0\.18\) must be 1\.0"),
        ({"in_channels": 4}, r"^`in_channels` \(4\) must be 3"),
        ({"encoder": MIXED["encoder"] | {"rope_periods": [1.0, 2.0, 3.0]}},
         r"^`rope_periods` of the encoder .* must be the powers of 100"),
        ({"decoder": MIXED["decoder"] | {"rope_periods": ["1"]}},
         r"^`rope_periods` of the decoder"),
        ({"decoder": MIXED["decoder"] | {"num_heads": 1}},
         r"^`rope_periods` of the decoder"),
        ({"encoder": None}, r"types of a `TokenizerConfig`; got others"),
        ({"encoder": MIXED["encoder"] | {"width": "36"}}, "types of a"),
        ({"encoder": MIXED["encoder"] | {"num_heads": 0}}, "types of a"),
        ({"patch_size": 5}, "`image_size` must be a multiple of `patch_size`"),
        ({"rope": "float16"}, "types of a `TokenizerConfig`"),
        ({"decoder": MIXED["decoder"] | {"norm": "batchnorm"}}, "types of a"),
    ],
)  # fmt: skip
def test_a_setting_that_is_not_ours_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        config_from_diffusers(MIXED | changes)


def test_a_tower_has_to_be_there():
    settings = {name: MIXED[name] for name in MIXED if name != "decoder"}
    with pytest.raises(ValueError, match="KeyError"):
        config_from_diffusers(settings)
