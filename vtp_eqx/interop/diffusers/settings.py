"""Settings of a tokenizer, in the words of diffusers' autoencoders, and back.

Their words where they have one (`latent_channels`, `sample_size`, `latents_mean`), and
our fields otherwise. A tower's rotary periods are written out for who computes with it.
"""

import dataclasses
from typing import Any

import numpy as np

from vtp_eqx.config import first_sentence, from_dict, require, TokenizerConfig
from vtp_eqx.nn.rope import axial_periods


CLASS_NAME = "AutoencoderVTP"
# Their word and our attribute: of the config, and of the tokenizer.
_FIELDS = {"latent_channels": "latent_width", "sample_size": "image_size"}
STATISTICS = {"latents_mean": "latent_mean", "latents_std": "latent_std"}
ORIGIN = "origin"  # what `vtp_eqx.interop.passthrough` keeps
_FIXED = {
    "_class_name": CLASS_NAME,
    "in_channels": 3,
    "out_channels": 3,
    "scaling_factor": 1.0,  # diffusers divides by it beside the deviation
}
# Younger than the layout: left out where they are the default, so that files without
# them come back as they were.
_YOUNGER = {
    "residual": "as computed", "latent_norm": "none", "readout_layers": 1,
    "readout": "mean",
}  # fmt: skip
_TOWERS = ("encoder", "decoder")
_PERIODS = "rope_periods"
# What diffusers and the hub write into every config.
_IGNORED = {"_diffusers_version", "_name_or_path"}


def config_to_diffusers(config: TokenizerConfig) -> dict[str, Any]:
    """The settings of a config, all written out.

    A `ValueError` where the PyTorch file beside them would compute something else.
    """
    require(
        config.readout_layers == 1,
        "`readout_layers` is 1 in the PyTorch file for diffusers; got "
        f"{config.readout_layers}: keep this tokenizer in our own format.",
    )
    fields = dataclasses.asdict(config)
    for theirs, ours in _FIELDS.items():
        fields[theirs] = fields.pop(ours)
    for described in (fields, *(fields[name] for name in _TOWERS)):
        for name, default in _YOUNGER.items():
            if described.get(name) == default:
                del described[name]
    for name in _TOWERS:
        tower = getattr(config, name)
        periods = axial_periods(tower.width // tower.num_heads, config.rope)
        fields[name][_PERIODS] = periods.astype(float).tolist()
    for name in ("pixel_mean", "pixel_std"):
        fields[name] = list(fields[name])
    return _FIXED | fields


def config_from_diffusers(settings: dict[str, Any]) -> TokenizerConfig:
    """The config that settings describe; what they lack has our defaults.

    Statistics are not looked at. A `ValueError` names the setting that is unknown, and
    the value that this library does not have.
    """
    class_name = settings.get("_class_name")
    require(
        class_name == CLASS_NAME,
        f"`_class_name` ({class_name!r}) must be {CLASS_NAME!r}, the autoencoder that "
        "this library writes for diffusers: this is another one.",
    )
    ours = {field.name for field in dataclasses.fields(TokenizerConfig)}
    known = {*_FIXED, *_FIELDS, *(ours - {*_FIELDS.values()})}
    unknown = settings.keys() - known - {*STATISTICS, ORIGIN} - _IGNORED
    require(
        not unknown,
        f"A config of an {CLASS_NAME} has known settings; got also "
        f"{sorted(unknown)}: remove them, or use the version that wrote them.",
    )
    fields = {
        _FIELDS.get(name, name): value
        for name, value in settings.items()
        if name in known - _FIXED.keys()
    }
    try:
        towers = {name: dict(fields[name]) for name in _TOWERS}
        periods = {name: tower.pop(_PERIODS, None) for name, tower in towers.items()}
        config = from_dict(TokenizerConfig, fields | towers)
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(
            f"The config of an {CLASS_NAME} has values of the types of a "
            f"`TokenizerConfig`; got others ({type(error).__name__}: "
            f"{first_sentence(error)}): write it again with `save_diffusers`."
        ) from error
    for name, value in _FIXED.items():
        require(
            settings.get(name, value) == value,
            f"`{name}` ({settings[name]!r}) must be {value!r}, as in every folder of "
            "`save_diffusers`: correct it.",
        )
    written = config_to_diffusers(config)
    for name in _TOWERS:
        formula = written[name][_PERIODS]
        require(
            _close(periods[name], formula),
            f"`{_PERIODS}` of the {name} ({periods[name]}) must be the powers of 100 "
            f"that its heads have ({formula}): correct them.",
        )
    return config


def _close(values: Any, formula: list[float]) -> bool:
    """Whether `values` are those of a formula; powers differ in their last bits."""
    is_list = isinstance(values, list) and len(values) == len(formula)
    is_list = is_list and all(type(value) in (int, float) for value in values)
    return is_list and np.allclose(values, formula, rtol=1e-6)
