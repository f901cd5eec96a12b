"""Published LightningDiT settings to our config and back."""

import dataclasses
from typing import Any

from vtp_eqx.config import DiTConfig, require
from vtp_eqx.interop.settings import check_setting


# Published config key -> field of `DiTConfig`.
FIELDS = {
    "hidden_size": "width",
    "depth": "depth",
    "num_heads": "num_heads",
    "in_channels": "latent_width",
    "input_size": "latent_size",
    "patch_size": "patch_size",
    "num_classes": "num_classes",
    "use_qknorm": "qk_norm",
    "use_rmsnorm": "rmsnorm",
    "use_rope": "rope",
    "use_swiglu": "swiglu",
    "mlp_ratio": "mlp_ratio",
    "class_dropout_prob": "label_drop_rate",
}
OPTIONAL = {"mlp_ratio", "class_dropout_prob"}  # keys that may be left out
# Ours, beside the published keys: of the latents that the model was trained on.
LATENTS_HASH = "latents_hash"
SIZES = {  # published name of a model -> width, depth, heads
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
    "1p0B": (1536, 24, 24),
    "1p6B": (1792, 28, 28),
}


def config_from_published(config: dict[str, Any]) -> DiTConfig:
    """The shape that published configuration keys describe."""
    missing = sorted({*FIELDS, "wo_shift"} - OPTIONAL - config.keys())
    require(not missing, f"A published config has every shape key; missing: {missing}.")
    require(
        not config.get("learn_sigma", False),
        "A flow model predicts a velocity and no variance; got `learn_sigma` true: "
        "use a checkpoint without it.",
    )
    fields = {n: field for n, field in FIELDS.items() if n in config}
    for name in (*fields, "wo_shift"):
        is_flag = name.startswith(("use_", "wo_"))
        check_setting(name, config[name], is_flag or (1.0 if name in OPTIONAL else 1))
    return DiTConfig(
        **{field: config[name] for name, field in fields.items()},
        shift=not config["wo_shift"],
    )


def config_to_published(config: DiTConfig) -> dict[str, Any]:
    """The published keys of a shape; those that may be left out, where they differ.

    A `ValueError` for a model of captions.
    """
    require(
        config.condition == "label",
        f"`condition` ({config.condition!r}) must be 'label', because LightningDiT has "
        "no captions: keep this generator in our format.",
    )
    usual = {field.name: field.default for field in dataclasses.fields(DiTConfig)}
    settings = {
        name: getattr(config, field)
        for name, field in FIELDS.items()
        if name not in OPTIONAL or getattr(config, field) != usual[field]
    }
    return {**settings, "wo_shift": not config.shift}


def latents_hash_of(config: dict[str, Any]) -> str:
    """The `latents_hash` that configuration keys carry, or "", as published ones do."""
    found = config.get(LATENTS_HASH, "")
    require(
        isinstance(found, str),
        f"`{LATENTS_HASH}` ({found!r}) must be a text: remove it.",
    )
    return found


def config_from_training(training: dict[str, Any]) -> dict[str, Any]:
    """The configuration keys that LightningDiT's training file stands for."""
    try:
        model, data = training["model"], training["data"]
        size, _, patch_size = (
            model["model_type"].removeprefix("LightningDiT-").partition("/")
        )
        width, depth, num_heads = SIZES[size]
        ratio = training["vae"].get("downsample_ratio", 16)
        flags = [name for name in FIELDS if name.startswith("use_")]
        return {
            **{name: model.get(name, False) for name in flags},
            "hidden_size": width,
            "depth": depth,
            "num_heads": num_heads,
            "patch_size": int(patch_size),
            "in_channels": model.get("in_chans", 4),
            "input_size": data["image_size"] // ratio,
            "num_classes": data["num_classes"],
            "wo_shift": model.get("wo_shift", False),
        }
    except (
        LookupError, TypeError, AttributeError, ArithmeticError, ValueError
    ) as error:  # fmt: skip
        raise ValueError(
            "Settings inside a checkpoint are those of LightningDiT's training; got "
            f"others ({type(error).__name__}: {error}): put a config.json beside it."
        ) from error
