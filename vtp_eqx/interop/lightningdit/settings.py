"""Published LightningDiT settings to our config and back."""

import dataclasses
from typing import Any

from vtp_eqx.config import DiTConfig, LARGEST_SIZE, require


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
}
# The same, of keys that may be left out.
OPTIONAL_FIELDS = {"mlp_ratio": "mlp_ratio", "class_dropout_prob": "label_drop_rate"}
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
    missing = sorted({*FIELDS, "wo_shift"} - config.keys())
    require(not missing, f"A published config has every shape key; missing: {missing}.")
    require(
        not config.get("learn_sigma", False),
        "A flow model predicts a velocity and no variance; got `learn_sigma` true: "
        "use a checkpoint without it.",
    )
    fields = {name: field for name, field in FIELDS.items()} | {
        name: field for name, field in OPTIONAL_FIELDS.items() if name in config
    }
    for name in (*fields, "wo_shift"):
        value = config[name]
        if name.startswith(("use_", "wo_")):
            kind, fits = "true or false", isinstance(value, bool)
        elif name in OPTIONAL_FIELDS:
            fits = type(value) in (int, float) and 0 < value <= LARGEST_SIZE
            kind = "a positive number"
        else:
            fits = type(value) is int and 0 < value <= LARGEST_SIZE
            kind = "a positive whole number"
        require(
            fits, f"The published key `{name}` is {kind}; got {value!r}: correct it."
        )
    return DiTConfig(
        **{field: config[name] for name, field in fields.items()},
        shift=not config["wo_shift"],
    )


def config_to_published(config: DiTConfig) -> dict[str, Any]:
    """The published keys of a shape; those that may be left out, where they differ."""
    usual = {
        field.name: field.default
        for field in dataclasses.fields(DiTConfig)
        if field.name in OPTIONAL_FIELDS.values()
    }
    return {
        **{name: getattr(config, field) for name, field in FIELDS.items()},
        **{
            name: getattr(config, field)
            for name, field in OPTIONAL_FIELDS.items()
            if getattr(config, field) != usual[field]
        },
        "wo_shift": not config.shift,
    }


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
        return {
            **{
                name: model.get(name, False)
                for name in FIELDS
                if name.startswith("use_")
            },
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
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        ValueError,
    ) as error:
        raise ValueError(
            "Settings inside a checkpoint are those of LightningDiT's training; got "
            f"others ({type(error).__name__}: {error}): put a config.json beside it."
        ) from error
