"""Latents that are features of a frozen encoder, as they are or made narrower.

Without an adapter: Zheng et al. 2025 (RAE), https://arxiv.org/abs/2510.11690. With one:
Gao et al. 2025 (FAE), https://arxiv.org/abs/2512.07829. Of shallow and deep features:
Jia et al. 2025 (DINO-Tok), https://arxiv.org/abs/2511.20565.
"""

import dataclasses
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, UInt8
import numpy as np

from vtp_eqx.config import Readout, require, TokenizerConfig
from vtp_eqx.config.fields import later
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.training.pca_start import principal_components


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What latents are of a frozen encoder's features."""

    # "identity": the features themselves (RAE). "linear": of the latent width, as many
    # numbers as tell, linearly again, most of the features (FAE).
    kind: Literal["identity", "linear"]
    readout_layers: int = 1  # RAEv2: the mean of the features of so many last blocks
    # DINO-Tok: of the "ends", the first of these blocks and the last, all features.
    readout: Readout = later("mean")


def adapted_config(config: TokenizerConfig, adapter: AdapterConfig) -> TokenizerConfig:
    """The shape of a tokenizer on the frozen encoder of one of the shape `config`.

    It has no text tower: what read the former latents does not read these.
    """
    adapted = dataclasses.replace(
        config,
        latent_norm="none",
        text=None,
        readout_layers=adapter.readout_layers,
        readout=adapter.readout,
    )
    if adapter.kind == "linear":
        return adapted
    return dataclasses.replace(adapted, latent_width=adapted.readout_width)


def adapt(
    tokenizer: Tokenizer,
    adapter: AdapterConfig,
    images: UInt8[np.ndarray, "num height width 3"],
) -> Tokenizer:
    """A tokenizer on the encoder of `tokenizer`; its decoder has learned nothing.

    - `images`: those that a linear map is solved on, as principal components of the
      features of their patches. So narrow a linear autoencoder reconstructs features no
      better (FAE trains a layer of attention, and a deep decoder of features).
    """
    config = adapted_config(tokenizer.config, adapter)
    made = eqx.filter_jit(Tokenizer)(config, key=jr.key(0))
    # The arrays of one, and the read-out of the other.
    encoder = jax.tree.unflatten(
        jax.tree.structure(made.encoder), jax.tree.leaves(tokenizer.encoder)
    )
    adapted = eqx.tree_at(lambda made: made.encoder, made, encoder)
    weight = jnp.eye(config.latent_width)
    if adapter.kind == "linear":
        weight = _linear_map(adapted, images, config.latent_width)
    return eqx.tree_at(lambda adapted: adapted.bottleneck.weight, adapted, weight)


def _linear_map(
    tokenizer: Tokenizer, images: np.ndarray, latent_width: int
) -> Float[Array, "channels width"]:
    width = tokenizer.config.readout_width
    patches = (images.shape[1] // tokenizer.config.patch_size) ** 2
    require(
        len(images) * patches >= 4 * width,
        f"`images` ({len(images)}) must be more, because principal components need "
        "several patches for each feature: pass more.",
    )
    require(
        latent_width <= width,
        f"`latent_width` ({latent_width}) of a linear adapter must not exceed the "
        f"width of the features it reads ({width}): narrow it, or take 'identity'.",
    )
    features = np.concatenate(
        [
            _features(tokenizer, jnp.asarray(chunk, jnp.float32) / 255)
            for chunk in np.array_split(images, -(-len(images) // 64))
        ]
    )
    basis, variances = principal_components(
        features - features.mean(axis=0), latent_width
    )
    # A common scale: the mean variance of a latent channel is 1.
    return basis * jnp.sqrt(latent_width / jnp.sum(variances))


@eqx.filter_jit
def _features(tokenizer: Tokenizer, images: Array) -> Float[Array, "patches width"]:
    pixels = tokenizer.normalize(images)
    patches = tokenizer.encoder.batch(pixels).readout.patches
    return patches.reshape(-1, patches.shape[-1])
