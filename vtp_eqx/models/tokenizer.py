"""The tokenizer: images to latents and back, and images and texts to one space.

Images are float32 `[height, width, 3]` in [0, 1], latents are
`[height / patch_size, width / patch_size, latent_width]` and raw. "Pixels" are images
in the normalized space that the networks read and write; nobody else normalizes.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
from jax.core import Tracer
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray
import numpy as np

from vtp_eqx.config import Precision, PrototypeConfig, TokenizerConfig
from vtp_eqx.models.bottleneck import Bottleneck
from vtp_eqx.models.decoder import PixelDecoder
from vtp_eqx.models.encoder import Encoder, Features
from vtp_eqx.models.heads import PrototypeHead
from vtp_eqx.models.input_checks import (
    AnyArray,
    check_image,
    check_latents,
    check_measured,
    check_token_ids,
)
from vtp_eqx.models.text import TextEncoder, TextFeatures
from vtp_eqx.nn.linear import Linear, orthogonal
from vtp_eqx.nn.norms import unit_norm
from vtp_eqx.nn.patches import patch_grid


class Tokenizer(eqx.Module):
    """A visual tokenizer: encoder, linear bottleneck, pixel decoder, text tower.

    The bottleneck is a bias-free linear read-out of the patch features, without noise
    and, but for a `latent_norm`, without a norm. `latent_mean` and `latent_std`
    describe the latents of a data set, channel by channel; until they are measured they
    are 0 and 1, and nothing that needs them takes the tokenizer.

    The methods from `encode` to `denormalize_latents` act on one example: batch with
    `jax.vmap`. A `ValueError` says what is wrong with an input, values included where
    they are known (not under `jax.jit`).

    Yao et al. 2025 (VTP), https://arxiv.org/abs/2512.13687.
    """

    encoder: Encoder
    bottleneck: Bottleneck
    decoder: PixelDecoder
    text: TextEncoder | None
    projection: Linear | None
    logit_scale: Float[Array, ""]
    logit_bias: Float[Array, ""] | None
    latent_mean: Float[Array, " channels"]
    latent_std: Float[Array, " channels"]
    config: TokenizerConfig = eqx.field(static=True)
    # What a published checkpoint has beyond this model; no number depends on it
    # (`vtp_eqx.interop.passthrough`).
    origin: str = eqx.field(static=True)

    def __init__(self, config: TokenizerConfig, *, origin: str = "", key: PRNGKeyArray):
        encoder_key, narrow_key, decoder_key, text_key, project_key = jr.split(key, 5)
        patch_size, latent_width = config.patch_size, config.latent_width
        self.encoder = Encoder(
            config.encoder, patch_size, config.rope,
            readout_layers=config.readout_layers, readout=config.readout,
            key=encoder_key,
        )  # fmt: skip
        self.bottleneck = Bottleneck(config, key=narrow_key)
        self.decoder = PixelDecoder(
            config.decoder, latent_width, patch_size, config.rope, key=decoder_key
        )
        self.text = self.projection = None
        if config.text is not None:
            self.text = TextEncoder(config.text, key=text_key)
            self.projection = Linear(
                config.head_width,
                config.text.width,
                use_bias=False,
                std=config.head_width**-0.5,
                key=project_key,
            )
        self.logit_scale = jnp.asarray(config.logit_scale, jnp.float32)
        self.logit_bias = (
            None
            if config.logit_bias is None
            else jnp.asarray(config.logit_bias, jnp.float32)
        )
        if config.latent_init == "orthogonal":
            self.decoder = eqx.tree_at(
                lambda decoder: decoder.embed,
                self.decoder,
                orthogonal(self.decoder.embed, key=decoder_key),
            )
        self.latent_mean = jnp.zeros(latent_width, jnp.float32)
        self.latent_std = jnp.ones(latent_width, jnp.float32)
        self.config = config
        self.origin = origin

    def encode(self, image: AnyArray) -> Float[Array, "rows columns channels"]:
        """The raw latents of an image."""
        return self._encode(check_image(image, self.config.patch_size))

    def decode(self, latents: AnyArray) -> Float[Array, "height width 3"]:
        """The image that raw latents stand for: about [0, 1], unclipped."""
        return self._decode(check_latents(latents, self.config.latent_width))

    def features(self, image: AnyArray, last: int = 1) -> list[Features]:
        """The full-width features after each of the `last` blocks, first to last.

        All pass the final norm; the last of them is what every objective reads.
        """
        return self._features(check_image(image, self.config.patch_size), last)

    def embed_image(self, image: AnyArray) -> Float[Array, " embed"]:
        """The unit-norm embedding of an image, in the space of `embed_text`."""
        self._contrast()
        return self._embed_image(check_image(image, self.config.patch_size))

    def embed_text(self, ids: AnyArray) -> Float[Array, " embed"]:
        """The unit-norm embedding of a text, in the space of `embed_image`."""
        text, _ = self._contrast()
        vocabulary, context = text.token_embedding.shape[0], text.positions.shape[0]
        return self._embed_text(check_token_ids(ids, context, vocabulary))

    def text_features(self, ids: AnyArray) -> TextFeatures:
        """The text tower's features of each token of a text: what generators read."""
        text, _ = self._contrast()
        vocabulary, context = text.token_embedding.shape[0], text.positions.shape[0]
        return self._text_features(check_token_ids(ids, context, vocabulary))

    @property
    def precision(self) -> str:
        """The type that the networks compute in: that of their weights."""
        return self.bottleneck.weight.dtype.name

    @property
    def is_measured(self) -> bool:
        """Whether it has latent statistics; published checkpoints come without them.

        No measurement ends at exactly 0 and 1. `True` where values are not known, as
        under `jax.jit`.
        """
        statistics = (self.latent_mean, self.latent_std)
        if any(isinstance(array, Tracer) for array in statistics):
            return True
        mean, std = map(np.asarray, statistics)
        return bool((mean != 0).any() or (std != 1).any())

    def with_statistics(
        self, mean: Float[AnyArray, " channels"], std: Float[AnyArray, " channels"]
    ) -> "Tokenizer":
        """This tokenizer with other latent statistics."""
        where = lambda tokenizer: (tokenizer.latent_mean, tokenizer.latent_std)
        return eqx.tree_at(where, self, (jnp.asarray(mean), jnp.asarray(std)))

    def with_one_scaling_factor(self) -> "Tokenizer":
        """This tokenizer, whose latents are divided by one deviation in all channels.

        That is the root mean square of those of the channels, as the scaling factor of
        latent diffusion is (Rombach et al. 2022, https://arxiv.org/abs/2112.10752,
        appendix G). Each channel keeps its own mean. A `ValueError` where the latents
        are not measured.
        """
        check_measured(self.is_measured)
        shared = jnp.sqrt(jnp.mean(self.latent_std**2))
        std = jnp.full_like(self.latent_std, shared)
        return self.with_statistics(self.latent_mean, std)

    def at_precision(self, precision: Precision) -> "Tokenizer":
        """This tokenizer with its weights rounded, so that its networks compute so.

        What goes in and comes out stays float32, as do the inside of norms and of the
        softmax, the scale of contrast and the statistics of latents.
        """
        networks = lambda tokenizer: (
            tokenizer.encoder,
            tokenizer.bottleneck,
            tokenizer.decoder,
            tokenizer.text,
            tokenizer.projection,
        )
        rounded = jax.tree.map(lambda leaf: leaf.astype(precision), networks(self))
        return eqx.tree_at(networks, self, rounded, is_leaf=lambda leaf: leaf is None)

    def normalize_latents(
        self, latents: Float[Array, "*axes channels"]
    ) -> Float[Array, "*axes channels"]:
        """Raw latents to mean 0 and deviation 1 per channel, what generators learn."""
        check_measured(self.is_measured)
        return (latents - self.latent_mean) / self.latent_std

    def denormalize_latents(
        self, latents: Float[Array, "*axes channels"]
    ) -> Float[Array, "*axes channels"]:
        """Undoes `normalize_latents`."""
        check_measured(self.is_measured)
        return latents * self.latent_std + self.latent_mean

    def normalize(self, image: Float[Array, "*axes 3"]) -> Float[Array, "*axes 3"]:
        """Colors in [0, 1] to the normalized space of pixels."""
        return normalize_pixels(self.config, image)

    def denormalize(self, pixels: Float[Array, "*axes 3"]) -> Float[Array, "*axes 3"]:
        """Undoes `normalize`; clips nothing."""
        mean, std = _pixel_statistics(self.config, pixels)
        return pixels * std + mean

    def contrast_features(self, features: Features) -> Float[Array, "*batch head"]:
        """The features that contrast projects: class token, or mean of the patches."""
        chosen = self.head_features(features)
        if self.config.contrast_feature == "cls":
            return chosen.cls
        return jnp.mean(chosen.patches, axis=-2)

    def head_features(self, features: Features) -> Features:
        """Features that contrast and distillation read: full width, or bottlenecked."""
        return _head_features(features, self.bottleneck, self.config)

    # The methods above check values, which only exist outside of `jax.jit`; those below
    # are compiled once, however often a notebook calls them.

    @eqx.filter_jit
    def _encode(
        self, image: Float[Array, "height width 3"]
    ) -> Float[Array, "rows columns channels"]:
        height, width, _ = image.shape
        rows, columns = patch_grid(height, width, self.config.patch_size)
        features = self.encoder(self._pixels(image)).readout
        latents = self.bottleneck(features.patches)
        return latents.astype(jnp.float32).reshape(rows, columns, -1)

    @eqx.filter_jit
    def _decode(
        self, latents: Float[Array, "rows columns channels"]
    ) -> Float[Array, "height width 3"]:
        pixels = self.decoder(latents.astype(self.precision))
        return self.denormalize(pixels.astype(jnp.float32))

    @eqx.filter_jit
    def _features(
        self, image: Float[Array, "height width 3"], last: int
    ) -> list[Features]:
        features = self.encoder.intermediate(self._pixels(image), last)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), features)

    @eqx.filter_jit
    def _embed_image(
        self, image: Float[Array, "height width 3"]
    ) -> Float[Array, " embed"]:
        _, projection = self._contrast()
        features = self.encoder(self._pixels(image))
        embedding = projection(self.contrast_features(features))
        return unit_norm(embedding.astype(jnp.float32))

    @eqx.filter_jit
    def _embed_text(self, ids: Int[Array, " context"]) -> Float[Array, " embed"]:
        text, _ = self._contrast()
        return unit_norm(text.embed(ids).astype(jnp.float32))

    @eqx.filter_jit
    def _text_features(self, ids: Int[Array, " context"]) -> TextFeatures:
        text, _ = self._contrast()
        features = text.features(ids)
        return TextFeatures(features.tokens.astype(jnp.float32), features.length)

    def _pixels(self, image: Array) -> Array:
        return self.normalize(image).astype(self.precision)

    def _contrast(self) -> tuple[TextEncoder, Linear]:
        if self.text is None or self.projection is None:
            raise ValueError(
                "Embeddings need a text tower; got a tokenizer without one: "
                "set `text` in its `TokenizerConfig`."
            )
        return self.text, self.projection


class Pretrainer(eqx.Module):
    """What pre-training updates: a tokenizer and, for self-distillation, prototypes.

    `heads` are what other loss terms train beside them, by the name of the term.
    """

    tokenizer: Tokenizer
    prototypes: PrototypeHead | None
    heads: dict[str, Any]

    def __init__(
        self,
        tokenizer: TokenizerConfig,
        prototypes: PrototypeConfig | None,
        heads: Mapping[str, Any] | None = None,
        *,
        key: PRNGKeyArray,
    ):
        tokenizer_key, prototype_key = jr.split(key)
        self.tokenizer = Tokenizer(tokenizer, key=tokenizer_key)
        self.prototypes = (
            None
            if prototypes is None
            else PrototypeHead(tokenizer.head_width, prototypes, key=prototype_key)
        )
        self.heads = {} if heads is None else dict(heads)


class Teacher(eqx.Module):
    """The EMA teacher of self-distillation: encoder, bottleneck and prototype head."""

    encoder: Encoder
    bottleneck: Bottleneck
    prototypes: PrototypeHead
    config: TokenizerConfig = eqx.field(static=True)

    @classmethod
    def of(cls, student: Pretrainer) -> "Teacher | None":
        """The parts of a student that its teacher averages; without prototypes, none.

        They are the student's arrays: `copy_arrays` them where both are donated.
        """
        if student.prototypes is None:
            return None
        tokenizer = student.tokenizer
        return cls(
            tokenizer.encoder, tokenizer.bottleneck, student.prototypes,
            tokenizer.config,
        )  # fmt: skip

    def normalize(self, image: Float[Array, "*axes 3"]) -> Float[Array, "*axes 3"]:
        """Colors in [0, 1] to the normalized space of pixels."""
        return normalize_pixels(self.config, image)

    def head_features(self, features: Features) -> Features:
        """Features that the prototype head reads: full width, or bottlenecked."""
        return _head_features(features, self.bottleneck, self.config)


def normalize_pixels(
    config: TokenizerConfig, image: Float[Array, "*axes 3"]
) -> Float[Array, "*axes 3"]:
    """Colors in [0, 1] to the normalized space that networks of `config` read."""
    mean, std = _pixel_statistics(config, image)
    return (image - mean) / std


def _pixel_statistics(config: TokenizerConfig, like: Array) -> tuple[Array, Array]:
    mean = jnp.asarray(config.pixel_mean, like.dtype)
    return mean, jnp.asarray(config.pixel_std, like.dtype)


def _head_features(
    features: Features, bottleneck: Bottleneck, config: TokenizerConfig
) -> Features:
    if config.heads_input == "full":
        return features
    read = features.readout
    return Features(bottleneck(read.cls), bottleneck(read.patches))
