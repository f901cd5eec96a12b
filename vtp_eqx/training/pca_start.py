"""Initialization of a tokenizer at the principal components of its patches.

A randomly initialized autoencoder spends its first thousands of steps on finding what
principal components give for free, and a study of small budgets then measures how fast
decoders converge. Here the published architecture is kept, and its linear layers are
solved for: patch embedding from the principal components of patches, bottleneck from
those of the features, the decoder's two ends by least squares. Ours; not in the paper.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.models.decoder import PixelDecoder
from vtp_eqx.models.encoder import Encoder
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.nn.patches import patchify


# Norms divide by a token's length; a constant part of this many times the length of the
# rest makes that length, and so the whole map, almost linear.
CONSTANT_LENGTH = 3.0
RIDGE = 1e-4  # relative to the mean variance of a feature


def start_from_pca(
    tokenizer: Tokenizer, images: UInt8[np.ndarray, "num height width 3"]
) -> Tokenizer:
    """`tokenizer` with linear layers solved on `images`: thousands of patches.

    Its reconstruction is about that of principal components of patches, as many as the
    latent is wide. The tokenizer must be new: the solution leans on residual branches
    that are still small.
    """
    require(
        len(images) * (images.shape[1] // tokenizer.config.patch_size) ** 2
        >= 4 * tokenizer.bottleneck.weight.shape[1],
        "Least squares needs several patches for each feature; got "
        f"{len(images)} images: pass more.",
    )
    values, channels = 3 * tokenizer.config.patch_size**2, tokenizer.config.latent_width
    require(
        channels <= min(values, tokenizer.config.encoder.width),
        "A latent that starts as principal components is no wider than a patch has "
        f"values, nor than the encoder; got {channels} channels for {values} values "
        f"and a width of {tokenizer.config.encoder.width}: narrow it, or set "
        "`pca_start` to False.",
    )
    pixels = tokenizer.normalize(jnp.asarray(images, jnp.float32) / 255)
    tokenizer = _solve_patches(tokenizer, _patches_of(tokenizer, pixels))
    return _solve_decoder(_solve_bottleneck(tokenizer, pixels), pixels)


def solve_decoder(
    tokenizer: Tokenizer, images: UInt8[np.ndarray, "num height width 3"]
) -> Tokenizer:
    """`tokenizer` whose decoder, which must be new, is linear in its latents, by least
    squares on `images`; all else is kept."""
    pixels = tokenizer.normalize(jnp.asarray(images, jnp.float32) / 255)
    return _solve_decoder(tokenizer, pixels)


def principal_components(
    centered: Array | np.ndarray, num: int
) -> tuple[Float[Array, "num values"], Float[Array, " num"]]:
    """The first `num` principal directions, one a row, and their variances."""
    values = np.asarray(centered, np.float64)
    variances, vectors = np.linalg.eigh(values.T @ values / len(values))
    kept = np.argsort(variances)[::-1][:num]
    as_float32 = lambda array: jnp.asarray(array, jnp.float32)
    return as_float32(vectors[:, kept].T), as_float32(variances[kept])


def _patches_of(tokenizer: Tokenizer, pixels: Array) -> Float[Array, "num values"]:
    size = tokenizer.config.patch_size
    patches = jax.vmap(lambda image: patchify(image, size))(pixels)
    return patches.reshape(-1, patches.shape[-1])


def _solve_patches(tokenizer: Tokenizer, patches: Array) -> Tokenizer:
    """Embeds a patch as its principal components beside a long constant vector.

    All but the last of the widths carry components (fewer where a patch has fewer
    values); the order of importance is kept, their scale is common.
    """
    width = tokenizer.config.encoder.width
    mean = jnp.mean(patches, axis=0)
    basis, variances = principal_components(
        patches - mean, min(width - 1, patches.shape[1])
    )
    # Unit mean square over the widths that carry components.
    scale = jnp.sqrt(width / jnp.sum(variances))
    weight = jnp.zeros((width, patches.shape[1])).at[: len(basis)].set(scale * basis)
    constant = CONSTANT_LENGTH * jnp.sqrt(width)
    bias = (-weight @ mean).at[-1].set(constant)
    embed = lambda tokenizer: tokenizer.encoder.patch_embed
    return _with_map(tokenizer, embed, weight, bias)


def _solve_bottleneck(tokenizer: Tokenizer, pixels: Array) -> Tokenizer:
    """Reads the latent that predicts pixels best: least squares of reduced rank."""
    features = _flat(_features(tokenizer.encoder, pixels))
    patches = _patches_of(tokenizer, pixels)
    weight, _ = _least_squares(features, patches)
    predicted = (features - jnp.mean(features, axis=0)) @ weight.T
    basis, variances = principal_components(predicted, tokenizer.config.latent_width)
    # A common scale: the mean variance of a latent channel is 1.
    narrow = basis @ weight * jnp.sqrt(len(basis) / jnp.sum(variances))
    return eqx.tree_at(lambda tokenizer: tokenizer.bottleneck.weight, tokenizer, narrow)


def _solve_decoder(tokenizer: Tokenizer, pixels: Array) -> Tokenizer:
    """Spreads latents beside a long constant vector, and reads pixels off the end."""
    decoder, channels = tokenizer.decoder, tokenizer.config.latent_width
    width = tokenizer.config.decoder.width
    require(
        width >= channels + 2,
        "A decoder that starts linear needs a width of the latent's and 2 more; got "
        f"{width} for {channels}: widen it, or set `pca_start` or `linear_start` to "
        "False.",
    )
    latents = tokenizer.bottleneck(_features(tokenizer.encoder, pixels))
    flat = _flat(latents)
    # A rotation gives every width a share of the latents; the last two are constant,
    # with opposite signs, because LayerNorm would remove their mean.
    drawn = jax.random.normal(jax.random.key(0), (width - 2, channels))
    spread, _ = jnp.linalg.qr(drawn)
    scale = jnp.sqrt(width / jnp.mean(jnp.sum((flat - flat.mean(axis=0)) ** 2, axis=1)))
    weight = jnp.zeros((width, channels)).at[:-2].set(scale * spread)
    constant = CONSTANT_LENGTH * jnp.sqrt(width / 2)
    bias = (-weight @ flat.mean(axis=0)).at[-2].set(constant).at[-1].set(-constant)
    decoder = _with_map(decoder, lambda decoder: decoder.embed, weight, bias)
    size = tokenizer.config.patch_size
    rows, columns = pixels.shape[1] // size, pixels.shape[2] // size
    grid = latents.reshape(len(latents), rows, columns, -1)
    tokens = _flat(_tokens(decoder, grid))
    solved = _least_squares(tokens, _patches_of(tokenizer, pixels))
    decoder = _with_map(decoder, lambda decoder: decoder.to_pixels, *solved)
    return eqx.tree_at(lambda tokenizer: tokenizer.decoder, tokenizer, decoder)


@eqx.filter_jit
def _features(encoder: Encoder, pixels: Array) -> Array:
    return encoder.batch(pixels).readout.patches


@eqx.filter_jit
def _tokens(decoder: PixelDecoder, latents: Array) -> Array:
    return jax.vmap(decoder.tokens)(latents)


def _least_squares(features: Array, targets: Array) -> tuple[Array, Array]:
    """The weight and bias that predict `targets` from `features`, a little damped."""
    x, y = (np.asarray(part, np.float64) for part in (features, targets))
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x
    damping = RIDGE * np.trace(gram) / len(gram)
    weight = np.linalg.solve(gram + damping * np.eye(len(gram)), x.T @ y).T
    bias = y_mean - weight @ x_mean
    return jnp.asarray(weight, jnp.float32), jnp.asarray(bias, jnp.float32)


def _flat(tokens: Array) -> Array:
    return tokens.reshape(-1, tokens.shape[-1])


def _with_map(model: Any, where: Callable, weight: Array, bias: Array) -> Any:
    """`model` whose linear layer `where(model)` has another weight and bias."""
    numbers = lambda model: (where(model).weight, where(model).bias)
    return eqx.tree_at(
        numbers, model, (weight.astype(jnp.float32), bias.astype(jnp.float32))
    )
