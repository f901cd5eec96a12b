"""Reconstruction: the pixels of images from their latents."""

from collections.abc import Callable
import dataclasses
import math
from typing import ClassVar

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from vtp_eqx.config import (
    DecodeConfig,
    NoiseLaw,
    PretrainConfig,
    ReconstructionConfig,
    require,
)
from vtp_eqx.frozen.lpips import blank_perceptual, Perceptual
from vtp_eqx.losses.latents import channel_variance
from vtp_eqx.losses.reconstruction import gradient_l1_loss, l1_loss, pooled_l1_loss
from vtp_eqx.mesh import DATA
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.training.parameter_counts import (
    decoder_flops,
    perceptual_flops,
)
from vtp_eqx.training.precision import cast_params
from vtp_eqx.training.pretrain_views import PretrainViews
from vtp_eqx.training.terms.term import Microbatch, SubsetTerm, Term, TermFlops


Images = Float[Array, "batch height width 3"]


def pixel_loss(
    rebuilt: Images,
    targets: Images,
    config: ReconstructionConfig,
    perceptual: Callable[[Array, Array], Array] | None,
    denormalize: Callable[[Array], Array],
) -> Float[Array, " batch"]:
    """The weighted pixel terms of each image; both are in normalized pixel space.

    L1 and LPIPS are the paper's (section 3.2, equation 1). LPIPS, the `perceptual`
    distance, looks at what `denormalize` makes of both: colors in [0, 1], not clipped.
    """
    rebuilt = rebuilt.astype(jnp.float32)  # or colors would be rounded once more

    def lpips_loss(rebuilt: Images, targets: Images) -> Float[Array, " batch"]:
        assert perceptual is not None
        unit = denormalize(rebuilt), lax.stop_gradient(denormalize(targets))
        return jax.vmap(perceptual)(*unit)

    weights: list[tuple[float, Callable[[Array, Array], Array]]] = [
        (config.l1_weight, l1_loss),
        (config.pooled_weight, pooled_l1_loss),
        (config.gradient_weight, gradient_l1_loss),
        (config.perceptual_weight, lpips_loss),
    ]
    used = [weight * loss(rebuilt, targets) for weight, loss in weights if weight > 0]
    return sum(used, jnp.zeros(len(targets), jnp.float32))


def blank_perceptual_if_used(config: ReconstructionConfig) -> Perceptual | None:
    """A network without weights where LPIPS is learned from: for costs, not numbers."""
    return blank_perceptual() if config.uses_perceptual else None


def require_perceptual_weights(
    config: ReconstructionConfig, perceptual: Perceptual | None
) -> None:
    """Raises `ValueError` where LPIPS is asked for without its network."""
    require(
        not config.uses_perceptual or perceptual is not None,
        "LPIPS needs the published weights of its network, but there are none for a "
        f"`perceptual_weight` of {config.perceptual_weight}: load them "
        "(`load_perceptual`, or `--perceptual`), or set the weight to 0.",
    )


@dataclasses.dataclass(frozen=True)
class PixelTerm(SubsetTerm):
    """A term that compares decoded images.

    `perceptual` is the network of LPIPS, where that has a weight.
    """

    perceptual: Perceptual | None = None

    def check(self) -> None:
        require_perceptual_weights(self.config.reconstruction, self.perceptual)

    def pixel_loss(
        self, rows: Microbatch, rebuilt: Images, targets: Images
    ) -> Float[Array, " rows"]:
        """`pixel_loss` with the weights of the config."""
        return pixel_loss(
            rebuilt, targets, self.config.reconstruction,
            cast_params(self.perceptual, self.config.precision),
            rows.student.tokenizer.denormalize,
        )  # fmt: skip

    def decoding_flops(self, num_decoded: float = 1, shrink: int = 1) -> TermFlops:
        """Of decoding an image so often, and of comparing it with LPIPS as often.

        With `shrink` latents are so many times smaller along both sides.
        """
        tokenizer = self.config.tokenizer
        lpips = lpips_flops(self.config.reconstruction, tokenizer.image_size // shrink)
        return TermFlops(
            student=num_decoded * decoder_flops(tokenizer) / shrink**2,
            subset_pass=self.encoder_flops,
            frozen=num_decoded * lpips,
        )


class Reconstruction(PixelTerm):
    """The weighted pixel losses (VTP section 3.2), noise on latents where asked for."""

    name: ClassVar[str] = "reconstruction"

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        subset = rows.passes.subset
        if rows.views.noise is None:
            return self.pixel_loss(rows, rows.passes.rebuilt, subset.pixels)
        latents = decoded_latents(self.config, subset.latents, rows.views)
        rebuilt = rows.student.tokenizer.decoder.batch(latents)
        return self.pixel_loss(rows, rebuilt, subset.pixels)

    def draw(self, key: PRNGKeyArray) -> Float[Array, " rebuilt"] | None:
        """The share of the noise that each image gets, where these differ."""
        if self.config.controls.noise_law == "fixed":
            return None
        return jr.uniform(key, (self.batch_size,))

    def flops(self) -> TermFlops:
        return self.decoding_flops()


def decoded_latents(
    config: PretrainConfig, latents: Array, views: PretrainViews
) -> Float[Array, "batch rows columns channels"]:
    """`latents` as they are decoded: with the noise of the views, where there is any.

    Inside of `shard_map`, because noise is in deviations over the global batch.
    """
    if views.noise is None:
        return latents
    size = config.latent_noise
    if config.tokenizer.latent_norm == "none":
        # Looks at the whole batch: the config refuses it with microbatches.
        spread = jnp.sqrt(channel_variance(latents, axis_name=DATA))
        # Without a gradient, or latents would learn to spread less.
        size = size * lax.stop_gradient(spread)
    shares = None if views.draws is None else views.draws[Reconstruction.name]
    return noisy(latents, size * views.noise, config.controls.noise_law, shares)


def noisy(
    latents: Array, noise: Array, law: NoiseLaw, shares: Float[Array, " batch"] | None
) -> Float[Array, "batch rows columns channels"]:
    """`latents` with noise by a law (`ControlsConfig.noise_law`).

    `shares` is how much of the noise each image gets, in [0, 1): "fixed" needs none.
    """
    if law == "fixed":
        return latents + noise
    assert shares is not None
    share = shares[:, None, None, None]
    if law == "shifted":
        # More noise where latents have more numbers, which are more redundant.
        shift = math.sqrt(latents[0].size / 4096)
        share = shift * share / (1 + (shift - 1) * share)
    kept = 1.0 if law == "uniform" else 1 - share
    return kept * latents + share * noise


class DecoderViews(eqx.Module):
    """Raw latents, noisy where asked for, and the normalized pixels they stand for."""

    latents: Float[Array, "batch rows columns channels"]
    pixels: Float[Array, "batch height width 3"]


@dataclasses.dataclass(frozen=True)
class LatentsToPixels(Term):
    """The weighted pixel losses of `tokenizer`'s decoder, which is the student.

    Its views are `DecoderViews`. `perceptual` is the network of LPIPS, where that has a
    weight.
    """

    config: DecodeConfig
    tokenizer: Tokenizer
    perceptual: Perceptual | None = None
    name: ClassVar[str] = "reconstruction"

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        return pixel_loss(
            rows.student.batch(rows.views.latents), rows.views.pixels,
            self.config.reconstruction,
            cast_params(self.perceptual, self.config.precision),
            self.tokenizer.denormalize,
        )  # fmt: skip


def lpips_flops(config: ReconstructionConfig, side: int) -> float:
    """Two images forward, and one of them backward to no weight of its own."""
    return 3 * perceptual_flops(side) if config.uses_perceptual else 0.0
