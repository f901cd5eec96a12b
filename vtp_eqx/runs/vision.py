"""Frozen vision networks by what a user names: a file of DINOv2, or a tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vtp_eqx.config import PretrainConfig, require
from vtp_eqx.frozen.dinov2 import BY_FILE, DinoV2, DISTANCE_SIDE, load_dinov2
from vtp_eqx.frozen.encoder import FrozenEncoder
from vtp_eqx.models.arrays import weights_hash
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.training.terms.alignment import FeatureGrid


LoadTokenizer = Callable[[str], Tokenizer]  # `vtp_eqx.tokenizer.load`


class FrozenNetwork(NamedTuple):
    """A network, the side of the images it was made for, and whose weights it has."""

    network: DinoV2 | FrozenEncoder
    side: int
    weights: str


def load_network(where: str, load: LoadTokenizer) -> FrozenNetwork:
    """A published DINOv2 by its file, or else the encoder of a tokenizer.

    A `ValueError`, or for what is missing a `FileNotFoundError`, where it is neither.
    """
    name = Path(where).name
    if name in BY_FILE:
        return FrozenNetwork(load_dinov2(where, BY_FILE[name]), DISTANCE_SIDE, name)
    tokenizer = load(where)
    side, weights = tokenizer.config.image_size, weights_hash(tokenizer)
    return FrozenNetwork(FrozenEncoder.of(tokenizer), side, weights)


def vision_features(
    config: PretrainConfig, where: str, load: LoadTokenizer
) -> tuple[FeatureGrid, str]:
    """What latents of `config` are aligned with, and whose weights that has.

    A `ValueError` where the network's features are not as wide as `config` says.
    """
    network, _, weights = load_network(where, load)
    for name, width in config.vision_widths.items():
        require(
            width == network.width,
            f"`config.{name}.width` ({width}) must be the width of the features of "
            f"`vision` ({where}), which is {network.width}: set it.",
        )
    return FeatureGrid.for_latents(network, config.tokenizer), weights
