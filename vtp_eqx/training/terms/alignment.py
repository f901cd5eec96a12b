"""Alignment of latents with the features of a frozen vision network (VA-VAE).

Yao et al. 2025, https://arxiv.org/abs/2501.01423, section 3.2.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vtp_eqx.config import PretrainConfig, require, TokenizerConfig
from vtp_eqx.frozen.dinov2 import DinoV2
from vtp_eqx.frozen.encoder import FrozenEncoder
from vtp_eqx.losses.alignment import cosine_loss, similarity_loss
from vtp_eqx.models.tokenizer import Pretrainer
from vtp_eqx.nn.linear import Linear
from vtp_eqx.training.balance import GradientBalance
from vtp_eqx.training.parameter_counts import decoder_flops
from vtp_eqx.training.precision import cast_params
from vtp_eqx.training.pretrain_views import select_rows
from vtp_eqx.training.terms.encoder_passes import POSTERIOR
from vtp_eqx.training.terms.reconstruction import lpips_flops
from vtp_eqx.training.terms.term import Microbatch, SubsetTerm, TermFlops, TermLoss


# From an image in [0, 1] to its features, `[rows, columns, width]`, on the grid of its
# latents. Arrays inside of it are found where it is a pytree.
VisionFeatures = Callable[[Array], Array]


class FeatureGrid(eqx.Module):
    """The patch features of a frozen network on a grid of `grid_size` a side.

    The network is a DINOv2, as VA-VAE has it, or the encoder of a tokenizer. The image
    is resized, bilinearly as VA-VAE does, until its patches are so many.
    """

    network: DinoV2 | FrozenEncoder
    grid_size: int = eqx.field(static=True)

    @classmethod
    def for_latents(
        cls, network: DinoV2 | FrozenEncoder, config: TokenizerConfig
    ) -> "FeatureGrid":
        """On the grid of the latents of a tokenizer's training images."""
        return cls(network, config.image_size // config.patch_size)

    def __call__(
        self, image: Float[Array, "height width 3"]
    ) -> Float[Array, "rows columns features"]:
        """The features of one image with values in [0, 1]."""
        side = self.grid_size * self.network.config.patch_size
        resized = jax.image.resize(image, (side, side, 3), "bilinear", antialias=True)
        patches = self.network(resized).patches
        return patches.reshape(self.grid_size, self.grid_size, patches.shape[-1])


def blank_vision_if_used(config: PretrainConfig) -> VisionFeatures | None:
    """Features of the right shape that see nothing, for counts, where any are used."""
    widths, tokenizer = [*config.vision_widths.values()], config.tokenizer
    side = tokenizer.image_size // tokenizer.patch_size
    if not widths:
        return None
    return lambda image: jnp.zeros((side, side, widths[0]), image.dtype)


def require_vision(vision: VisionFeatures | None, name: str, weight: float) -> None:
    """Raises `ValueError` where a frozen network is learned from, but is not there."""
    require(
        vision is not None,
        "`vision` must be the frozen network that latents are aligned with, where "
        f"`{name}` ({weight}) is above 0; got None: pass one, such as a "
        "`FeatureGrid`, or set the weight to 0.",
    )


def frozen_features(
    vision: VisionFeatures | None,
    rows: Microbatch,
    config: PretrainConfig,
    *,
    width: int,
) -> Float[Array, "rebuilt rows columns {width}"]:
    """What a frozen network sees in the images that are decoded, without a gradient.

    A `ValueError` where that is no grid of `width` features as fine as the latents'.
    """
    network: Any = cast_params(vision, config.precision)
    images = select_rows(rows.views.whole, rows.views.rebuilt)
    features = lax.stop_gradient(jax.vmap(network)(images)).astype(jnp.float32)
    expected = (*rows.passes.subset.latents.shape[:3], width)
    require(
        features.shape == expected,
        f"`vision` must return features of shape {list(expected[1:])}, the grid of the "
        f"latents and the `width` of its config; got {list(features.shape[1:])}: "
        "resize its images, or set the width.",
    )
    return features


class AlignmentOutputs(eqx.Module):
    """Both losses of each image."""

    cosine: Float[Array, " rows"]
    similarity: Float[Array, " rows"]


@dataclasses.dataclass(frozen=True)
class Alignment(SubsetTerm):
    """Latents, through a linear map of their own, resemble features of `vision`.

    At each position by their direction, and in each image by which positions are alike.
    Acts on latents of the images that are decoded, before any noise; where they are
    drawn from a posterior, on what was drawn (VA-VAE).
    """

    vision: VisionFeatures | None = None
    name: ClassVar[str] = "alignment"

    def check(self) -> None:
        require_vision(self.vision, "alignment_weight", self.weight)

    @property
    def balance(self) -> GradientBalance | None:
        """Where the weight is adaptive: of reconstruction, at the encoder's last layer.

        That makes latents of features, and the variance of a posterior where there is
        one: one layer in VA-VAE.
        """
        config = self.config.alignment
        if config.weighting == "fixed":
            return None

        def last_layer(student: Pretrainer) -> tuple[Any, ...]:
            latents = student.tokenizer.bottleneck.weight
            if POSTERIOR not in student.heads:
                return (latents,)
            return (latents, student.heads[POSTERIOR].weight)

        return GradientBalance(
            self.name, "reconstruction", last_layer, config.weight_eps,
            config.weight_limit,
        )  # fmt: skip

    def make_head(self, key: PRNGKeyArray) -> Linear:
        """The map from latents to the network's width."""
        width = self.config.tokenizer.latent_width
        # Ours: keeps the latents' size.
        return Linear(
            width, self.config.alignment.width, use_bias=False, std=width**-0.5, key=key
        )

    def forward(self, rows: Microbatch) -> AlignmentOutputs:
        config = self.config.alignment
        features = frozen_features(self.vision, rows, self.config, width=config.width)
        latents = rows.passes.subset.latents
        mapped = rows.student.heads[self.name](latents).astype(jnp.float32)
        return AlignmentOutputs(
            cosine=cosine_loss(mapped, features, margin=config.cosine_margin),
            similarity=similarity_loss(
                mapped, features, margin=config.similarity_margin
            ),
        )

    def loss(self, student: Pretrainer, outputs: AlignmentOutputs) -> TermLoss:
        config = self.config.alignment
        value = (
            config.cosine_weight * outputs.cosine
            + config.similarity_weight * outputs.similarity
        )
        monitors = {
            "alignment_cosine": outputs.cosine,
            "alignment_similarity": outputs.similarity,
        }
        return TermLoss(value, monitors)

    def flops(self) -> TermFlops:
        """Without those of `vision`, which no config describes.

        An adaptive weight takes one more forward pass, and one back through the
        decoder and the network of LPIPS.
        """
        tokenizer = self.config.tokenizer
        positions = (tokenizer.image_size // tokenizer.patch_size) ** 2
        head = 2.0 * tokenizer.latent_width * self.config.alignment.width * positions
        norms = 0.0
        if self.balance is not None:
            norms = self.encoder_flops + 2 * decoder_flops(tokenizer)
            norms += lpips_flops(self.config.reconstruction, tokenizer.image_size)
        return TermFlops(student=head, subset_pass=self.encoder_flops, frozen=norms)
