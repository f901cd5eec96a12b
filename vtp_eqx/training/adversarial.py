"""What a decoder and a discriminator learn from each other.

The decoder learns reconstruction, and to be taken for real; the discriminator, to know
what was decoded from what was not. Both are an `Objective` each, so that microbatches
and devices are those of the other trainings (`vtp_eqx.training.microbatches`).
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vtp_eqx.config import FinetuneConfig, require
from vtp_eqx.frozen.depth_features import DepthFeatures
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.losses.adversarial import (
    generator_loss,
    hinge_discriminator_loss,
    lecam_loss,
)
from vtp_eqx.mesh import DATA
from vtp_eqx.models.discriminator import (
    Discriminator,
    FeatureDiscriminator,
    PatchDiscriminator,
)
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.nn.patches import unpatchify
from vtp_eqx.training.decode import decoder_views, EncodedBatch
from vtp_eqx.training.microbatches import Objective
from vtp_eqx.training.precision import cast_params
from vtp_eqx.training.terms.reconstruction import (
    DecoderViews,
    pixel_loss,
    require_perceptual_weights,
)
from vtp_eqx.views.differentiable import augment, NUM_DRAWS, round_to_bytes


Pixels = Float[Array, "batch height width 3"]
Terms = tuple[dict[str, Array], dict[str, Array]]  # and monitors


class RunningStatistics(eqx.Module):
    """What a run remembers of its discriminator, all 0 at first."""

    real_logit: Float[Array, ""]  # moving averages, for LeCam
    fake_logit: Float[Array, ""]
    saturated_steps: Int[Array, ""]  # so many in a row: nothing left to learn
    flat_steps: Int[Array, ""]  # so many in a row: what is decoded has one color


class AdversarialStudent(eqx.Module):
    """What stage two updates."""

    decoder: Any
    discriminator: Discriminator
    running: RunningStatistics


class AdversarialViews(eqx.Module):
    """Latents and pixels, and the draws of augmentation.

    Of each image two sets: for the decoder's update and for the discriminator's. Both
    are the same for the real and for the decoded image.
    """

    decoder: DecoderViews
    draws: Float[Array, "batch 2 8"]


class DecoderReadouts(eqx.Module):
    """A decoder whose last layer has a weight of its own for each of its two losses.

    They are equal. Apart, one backward pass gives the gradient of each by itself.
    """

    decoder: Any
    reconstruction: Float[Array, "pixels features"]
    adversarial: Float[Array, "pixels features"]

    def pixels(
        self,
        tokens: Float[Array, "batch num_patches features"],
        weight: Float[Array, "pixels features"],
        grid: tuple[int, int],
    ) -> Pixels:
        """What the last layer with that weight makes of the decoder's tokens."""
        layer = eqx.tree_at(lambda layer: layer.weight, self.decoder.to_pixels, weight)
        arrange = lambda patches: unpatchify(patches, grid, self.decoder.patch_size)
        return jax.vmap(arrange)(layer(tokens)).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class AdversarialObjective:
    """Both objectives; all methods are pure functions.

    `tokenizer` gives the colors of pixels; `perceptual` is the network of LPIPS, where
    that has a weight; and `vision` the one whose features a discriminator of the kind
    "features" sees.
    """

    config: FinetuneConfig
    tokenizer: Tokenizer
    perceptual: Perceptual | None = None
    vision: DepthFeatures | None = None

    def __post_init__(self):
        require_perceptual_weights(self.config.reconstruction, self.perceptual)
        self._decoder_views()  # if it can be made
        kind = self.config.adversarial.discriminator.kind
        require(
            (kind == "features") == (self.vision is not None),
            f"`vision` must be the frozen network of a discriminator of the kind "
            f"'features', and of no other; got {type(self.vision).__name__} for "
            f"{kind!r}: pass one, or change `kind`.",
        )

    def make_discriminator(self, *, key: PRNGKeyArray) -> Discriminator:
        """An untrained one."""
        config = self.config.adversarial.discriminator
        if self.vision is None:
            return PatchDiscriminator(config, key=key)
        width, levels = self.vision.network.width, self.vision.num_levels
        return FeatureDiscriminator(config, width, levels, key=key)

    def make_views(self, batch: EncodedBatch, key: PRNGKeyArray) -> AdversarialViews:
        """The views of a global batch, keyed by positions in it."""
        make = self._decoder_views()
        draws = jr.uniform(jr.fold_in(key, 1), (len(batch.image), 2, NUM_DRAWS))
        return AdversarialViews(make(batch, key), draws)

    def logits(
        self,
        discriminator: Discriminator,
        pixels: Pixels,
        draws: Float[Array, "batch 8"],
    ) -> Float[Array, "batch *positions"]:
        """The discriminator's logits of normalized pixels, as bytes and augmented."""
        unit = round_to_bytes(self.tokenizer.denormalize(pixels))
        config = self.config.adversarial.augment
        seen = jax.vmap(lambda image, draws: augment(image, config, draws))(
            2 * unit - 1, draws
        )
        if self.vision is not None:
            vision = cast_params(self.vision, self.config.precision)
            seen = jax.vmap(vision)((seen + 1) / 2)
        return discriminator(seen, axis_name=DATA)

    def of_decoder(self, *, has_adversary: bool) -> Objective:
        """Of `DecoderReadouts`; its teacher is the discriminator.

        Terms are `reconstruction` and `adversarial`; without an adversary, that is 0.
        """

        def forward(student, discriminator, views, step, key) -> Terms:
            latents, pixels = views.decoder.latents, views.decoder.pixels
            grid = (latents.shape[1], latents.shape[2])
            tokens = jax.vmap(student.decoder.tokens)(latents)
            terms = {
                "reconstruction": pixel_loss(
                    student.pixels(tokens, student.reconstruction, grid), pixels,
                    self.config.reconstruction,
                    cast_params(self.perceptual, self.config.precision),
                    self.tokenizer.denormalize,
                )
            }  # fmt: skip
            # As varying over devices as what it stands for.
            terms["adversarial"] = 0 * terms["reconstruction"]
            if has_adversary:
                fake = student.pixels(tokens, student.adversarial, grid)
                logits = self.logits(discriminator, fake, views.draws[:, 0])
                terms["adversarial"] = generator_loss(logits)
            return terms, {}

        return Objective(self.make_views, forward)

    def of_discriminator(self) -> Objective:
        """Of a discriminator; its teachers are the decoder and `RunningStatistics`.

        Terms are `discriminator` and, with a weight, `lecam`.
        """

        def forward(discriminator, teachers, views, step, key) -> Terms:
            decoder, running = teachers
            fake = decoder.batch(views.decoder.latents).astype(jnp.float32)
            real, fake = views.decoder.pixels, lax.stop_gradient(fake)
            real_logits, fake_logits = (
                self.logits(discriminator, pixels, views.draws[:, 1])
                for pixels in (real, fake)
            )
            terms = {
                "discriminator": hinge_discriminator_loss(real_logits, fake_logits)
            }
            if self.config.adversarial.lecam_weight > 0:
                terms["lecam"] = lecam_loss(
                    real_logits, fake_logits, real_mean=running.real_logit,
                    fake_mean=running.fake_logit,
                )  # fmt: skip
            monitors = {
                "real_accuracy": _row_means(real_logits > 0),
                "fake_accuracy": _row_means(fake_logits < 0),
                "real_logit": _row_means(real_logits),
                "fake_logit": _row_means(fake_logits),
                "real_deviation": self._deviations(real),
                "fake_deviation": self._deviations(fake),
            }
            return terms, monitors

        return Objective(self.make_views, forward)

    def _decoder_views(self) -> Callable[[EncodedBatch, PRNGKeyArray], DecoderViews]:
        config = self.config
        return decoder_views(self.tokenizer, config.latent_noise, config.noise_law)

    def _deviations(self, pixels: Pixels) -> Float[Array, " batch"]:
        """How far colors of an image are from their mean, in [0, 1]."""
        unit = jnp.clip(self.tokenizer.denormalize(pixels), 0, 1)
        return jnp.mean(jnp.std(unit, axis=(1, 2)), axis=-1)


def _row_means(values: Array) -> Float[Array, " batch"]:
    numbers = values.astype(jnp.float32)
    return jnp.mean(numbers, axis=tuple(range(1, values.ndim)))
