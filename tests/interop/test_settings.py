import dataclasses
import json

import pytest

from vtp_eqx.config import TextConfig, VTP_B, VTP_L, VTP_S
from vtp_eqx.interop import config_from_published, config_to_published


@pytest.mark.parametrize(
    "config",
    [
        VTP_S,
        VTP_L,
        dataclasses.replace(VTP_S, text=None),
        dataclasses.replace(VTP_S, heads_on="latent", contrast_feature="pooled"),
        dataclasses.replace(VTP_S, logit_bias=-10.0, logit_scale=2.0, image_size=128),
        dataclasses.replace(
            VTP_S, text=TextConfig(causal=False, quick_gelu=True, layer_scale=0.1)
        ),
        dataclasses.replace(
            VTP_S,
            encoder=dataclasses.replace(
                VTP_S.encoder, qk_norm=True, layer_scale=1e-5, feed_forward="mlp"
            ),
        ),
        dataclasses.replace(
            VTP_S,
            encoder=dataclasses.replace(VTP_S.encoder, feed_forward="swiglu32"),
            decoder=dataclasses.replace(VTP_S.decoder, feed_forward="swiglu128"),
        ),
    ],
)
def test_a_config_survives_the_round_trip(config):
    published = json.loads(json.dumps(config_to_published(config)))
    assert config_from_published(published) == config


def test_what_is_left_out_is_that_of_the_base_model():
    assert config_from_published({}) == VTP_B


def test_settings_of_the_hub_are_passed_over():
    hub = {"architectures": ["VTPModel"], "dtype": "float32", "model_type": "vtp"}
    assert config_from_published(hub) == VTP_B


def test_whole_numbers_are_taken_for_real_ones():
    assert config_from_published({"vision_mlp_ratio": 4}) == VTP_B


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"vision_storage_tokens": 4}, r"got also \['vision_storage_tokens'\]"),
        ({"text_pool_type": "last"}, r"`text_pool_type` is one of \['argmax'\]"),
        ({"vision_ffn_layer": "swiglu16"}, "got 'swiglu16'"),
        ({"train_reconstruction": False}, "`train_reconstruction` is one of"),
        ({"model_type": "dinov2"}, "`model_type` 'vtp'; got 'dinov2'"),
        ({"vision_depth": "12"}, "`vision_depth` is a positive whole number"),
        ({"vision_depth": True}, "`vision_depth` is a positive whole number"),
        ({"vision_depth": 2**40}, "`vision_depth` is a positive whole number"),
        ({"vision_init_values": 10**400}, "`vision_init_values` is a number or null"),
        ({"vision_num_heads": 0}, "`vision_num_heads` is a positive whole number"),
        ({"image_size": 256.0}, "`image_size` is a positive whole number"),
        ({"text_mlp_ratio": None}, "`text_mlp_ratio` is a positive number"),
        ({"init_logit_bias": float("nan")}, "`init_logit_bias` is a number or null"),
        ({"train_clip": "yes"}, "`train_clip` is true or false"),
        ({"vision_norm_layer": ["rmsnorm"]}, "`vision_norm_layer` is a text"),
    ],
)
def test_published_settings_that_we_lack_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        config_from_published(setting)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 8}, "`patch_size` is 16 in the published code; got 8"),
        ({"latent_width": 384}, "no bottleneck as wide as its encoder"),
        ({"pixel_mean": (0.5, 0.5, 0.5)}, "`pixel_mean` is"),
        (
            {"decoder": dataclasses.replace(VTP_S.decoder, mlp_ratio=2.0)},
            "`decoder.mlp_ratio` is 4.0",
        ),
        ({"text": TextConfig(tokenizer="learned")}, r"`text.tokenizer` \('learned'\)"),
    ],
)
def test_settings_of_ours_that_were_never_published_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        config_to_published(dataclasses.replace(VTP_S, **changes))
