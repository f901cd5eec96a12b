"""Published `config.json` settings to our config and back."""

import operator
from typing import Any, get_args

from vtp_eqx.config import (
    CLIP_VOCABULARY,
    FeedForward,
    from_dict,
    IMAGENET_MEAN,
    IMAGENET_STD,
    require,
    TokenizerConfig,
    VTP_B,
)
from vtp_eqx.interop.settings import check_setting


# Published setting and our field. Decoders have no setting for the MLP's ratio.
_SETTINGS = {
    "image_size": "image_size",
    "init_logit_scale": "logit_scale",
    "init_logit_bias": "logit_bias",
    "vision_patch_size": "patch_size",
    "vision_feature_bottleneck": "latent_width",
    "vision_clip_feat": "contrast_feature",
    "vision_mlp_ratio": "encoder.mlp_ratio",
    "text_context_length": "text.context",
    "text_vocab_size": "text.vocabulary",
    "text_embed_dim": "text.width",
    "text_depth": "text.depth",
    "text_num_heads": "text.num_heads",
    "text_mlp_ratio": "text.mlp_ratio",
    "text_quick_gelu": "text.quick_gelu",
    "text_ls_init_value": "text.layer_scale",
} | {
    f"{published}_{setting}": f"{part}.{field}"
    for published, part in (("vision", "encoder"), ("decoder", "decoder"))
    for setting, field in (
        ("embed_dim", "width"),
        ("depth", "depth"),
        ("num_heads", "num_heads"),
        ("norm_layer", "norm"),
        ("ffn_layer", "feed_forward"),
        ("use_qk_norm", "qk_norm"),
        ("init_values", "layer_scale"),
    )
}
_TRANSLATED = ("text_no_causal_mask", "train_clip", "vision_bottleneck_ae_only")
_MAY_BE_NULL = (
    "decoder_init_values",
    "init_logit_bias",
    "init_logit_scale",
    "text_ls_init_value",
    "vision_init_values",
)
_REAL_FIELDS = ("logit_scale", "logit_bias", "mlp_ratio", "layer_scale")
# The values of published settings that this library has.
_CHOICES = {
    "decoder_ffn_layer": get_args(FeedForward),
    "decoder_norm_layer": ("rmsnorm", "layernorm"),
    "nonscalar_logit_scale": (False,),
    "text_embed_cls": (False,),
    "text_output_tokens": (False,),
    "text_pad_id": (0,),
    "text_pool_type": ("argmax",),
    "text_proj_bias": (False,),
    "text_proj_type": ("linear",),
    "train_reconstruction": (True,),
    "vision_clip_feat": ("cls", "pooled"),
    "vision_ffn_layer": get_args(FeedForward),
    "vision_norm_layer": ("rmsnorm", "layernorm"),
}
# Names that begin so are settings of the model; others are of the hub that hosts it.
_PREFIXES = ("decoder_", "init_", "text_", "train_", "vision_")


def config_from_published(config: dict[str, Any]) -> TokenizerConfig:
    """Our config of a published one, with the published bfloat16 rotary positions.

    What `config` lacks has the value of VTP-B, as in the published code. A `ValueError`
    names a setting, or the value of one, that this library does not have.
    """
    known = {*_SETTINGS, *_TRANSLATED, *_CHOICES}
    kind = config.get("model_type", "vtp")
    require(
        kind == "vtp",
        f"A published tokenizer has the `model_type` 'vtp'; got {kind!r}: this is the "
        "config of another model.",
    )
    unknown = sorted(
        name for name in config if name.startswith(_PREFIXES) and name not in known
    )
    require(
        not unknown,
        f"Settings of a published model are known ones; got also {unknown}: remove "
        "them where they change nothing.",
    )
    defaults = config_to_published(VTP_B)
    for name in defaults.keys() & config.keys():
        example = None if name in _MAY_BE_NULL else defaults[name]
        check_setting(name, config[name], example)
    config = {**defaults, **config}
    for name, choices in _CHOICES.items():
        require(
            config[name] in choices,
            f"`{name}` is one of {list(choices)} in this library; got "
            f"{config[name]!r}: this checkpoint cannot be read.",
        )
    if config["init_logit_scale"] is None:
        config["init_logit_scale"] = VTP_B.logit_scale

    fields: dict[str, Any] = {"encoder": {}, "decoder": {}, "text": {}}
    for name, path in _SETTINGS.items():
        part, _, field = path.rpartition(".")
        value = config[name]
        if field in _REAL_FIELDS and value is not None:
            value = float(value)
        (fields[part] if part else fields)[field] = value
    fields["text"]["causal"] = not config["text_no_causal_mask"]
    if not config["train_clip"]:
        fields["text"] = None
    fields["heads_input"] = "full" if config["vision_bottleneck_ae_only"] else "latent"
    fields["rope"] = "bfloat16"
    return from_dict(TokenizerConfig, fields)


def config_to_published(config: TokenizerConfig) -> dict[str, Any]:
    """The published config of ours, with every setting written out.

    A `ValueError` names what the published code has no setting for. `remat` and
    `attention` are left out: they change what training costs and no number but by
    rounding.
    """
    for name, value, published in (
        ("patch_size", config.patch_size, 16),
        ("decoder.mlp_ratio", config.decoder.mlp_ratio, 4.0),
        ("latent_norm", config.latent_norm, "none"),
        ("readout_layers", config.readout_layers, 1),
        ("pixel_mean", config.pixel_mean, IMAGENET_MEAN),
        ("pixel_std", config.pixel_std, IMAGENET_STD),
    ):
        require(
            value == published,
            f"`{name}` is {published} in the published code; got {value}: keep this "
            "tokenizer in our own format.",
        )
    require(
        config.latent_width != config.encoder.width,
        "The published code has no bottleneck as wide as its encoder; got two widths "
        f"of {config.latent_width}: keep this tokenizer in our own format.",
    )
    text = config.text
    require(
        text is None or text.uses_clip == (text.vocabulary == CLIP_VOCABULARY),
        f"`text.tokenizer` ({text and text.tokenizer!r}) has no published setting: a "
        f"`vocabulary` of {text and text.vocabulary} would be taken for another one; "
        "keep this tokenizer in our own format.",
    )
    contrast = text is not None
    settings = {
        name: operator.attrgetter(path)(config)
        for name, path in _SETTINGS.items()
        if contrast or not name.startswith("text_")
    }
    fixed = {name: values[0] for name, values in _CHOICES.items() if len(values) == 1}
    return {
        **fixed,
        **settings,
        "model_type": "vtp",
        "text_no_causal_mask": text is not None and not text.causal,
        "train_clip": contrast,
        "vision_bottleneck_ae_only": config.heads_input == "full",
    }
