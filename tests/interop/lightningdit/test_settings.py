import dataclasses

import pytest

from vtp_eqx.config import DIT_B, DIT_XL
from vtp_eqx.interop.lightningdit import (
    config_from_published,
    config_from_training,
    config_to_published,
)


TRAINING = {
    "data": {"image_size": 256, "num_classes": 1000},
    "model": {
        "model_type": "LightningDiT-XL/1",
        "in_chans": 64,
        "use_qknorm": False,
        "use_rmsnorm": True,
        "use_rope": True,
        "use_swiglu": True,
        "wo_shift": False,
    },
    "vae": {"downsample_ratio": 16},
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"latent_size": 32, "patch_size": 2, "latent_width": 4, "num_classes": 10},
        {"qk_norm": True, "rmsnorm": False, "rope": False, "swiglu": False},
        {"shift": False, "mlp_ratio": 3.0, "label_drop_rate": 0.2},
    ],
)
def test_a_config_survives_the_round_trip(changes):
    config = dataclasses.replace(DIT_B, **changes)
    assert config_from_published(config_to_published(config)) == config


def test_the_settings_of_a_training_describe_its_model():
    assert config_from_published(config_from_training(TRAINING)) == DIT_XL


@pytest.mark.parametrize(
    "changes",
    [{"model": {"model_type": "SiT-XL/2"}}, {"data": None}, {"vae": {}, "data": {}}],
)
def test_settings_of_another_training_are_refused(changes):
    with pytest.raises(ValueError, match=r"put a config\.json beside it"):
        config_from_training({**TRAINING, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "768"}, "`hidden_size` is a positive whole number; got '768'"),
        ({"depth": True}, "`depth` is a positive whole number"),
        ({"depth": 2**40}, "`depth` is a positive whole number"),
        ({"num_heads": 0}, "`num_heads` is a positive whole number"),
        ({"use_rope": 1}, "`use_rope` is true or false"),
        ({"wo_shift": None}, "`wo_shift` is true or false"),
        ({"mlp_ratio": "4"}, "`mlp_ratio` is a positive number"),
        ({"learn_sigma": True}, "got `learn_sigma` true"),
    ],
)
def test_a_key_of_the_wrong_kind_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        config_from_published({**config_to_published(DIT_B), **changes})


def test_a_missing_key_is_named():
    config = config_to_published(DIT_B)
    del config["hidden_size"]
    with pytest.raises(ValueError, match=r"missing: \['hidden_size'\]"):
        config_from_published(config)
