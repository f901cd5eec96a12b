"""The student's encoder passes over the contrast crop, which terms share."""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from vtp_eqx.config import PretrainConfig
from vtp_eqx.models.encoder import Features
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.training.pretrain_views import Needs, PretrainViews, select_rows


# What draws in a microbatch folds its own number into the key. Runs depend on them.
WHOLE_KEY, DISTILLATION_KEY, SUBSET_KEY = range(3)
# The term whose head and draws make latents of a posterior.
POSTERIOR = "kl"
LOG_VARIANCE = (-30.0, 20.0)  # LDM: a posterior's is clipped to this range


Latents = Float[Array, "subset rows columns channels"]


class SubsetPass(eqx.Module):
    """The images that are decoded, and their raw latents in float32.

    Where these are drawn from a posterior, `latents` are what was drawn, and `mean` and
    `log_variance` what from.
    """

    pixels: Float[Array, "subset height width 3"]  # normalized
    latents: Latents
    mean: Latents
    log_variance: Latents | None


class EncoderPasses:
    """Each pass is made once, when the first term asks for it.

    Stochastic depth is a matter of a pass. So reconstruction reads the pass of contrast
    only where neither has any; then its images cost no second one.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        views: PretrainViews,
        config: PretrainConfig,
        needs: Needs,
        *,
        heads: Mapping[str, Any] | None = None,
        key: PRNGKeyArray,
    ):
        """`needs` are those of all terms, and `heads` what the student has for them."""
        self._tokenizer, self._views, self._key = tokenizer, views, key
        self._heads = heads or {}
        self._config, self._is_shared = config, shares_whole_pass(config, needs)

    @functools.cached_property
    def whole(self) -> Features:
        """Of all images, with contrast's stochastic depth."""
        return self._tokenizer.encoder.batch(
            self._pixels,
            drop_rate=self._config.contrast_drop,
            key=jr.fold_in(self._key, WHOLE_KEY),
        )

    @functools.cached_property
    def subset(self) -> SubsetPass:
        """Of the images that are decoded, with reconstruction's stochastic depth."""
        tokenizer, rebuilt = self._tokenizer, self._views.rebuilt
        assert rebuilt is not None
        pixels = select_rows(self._pixels, rebuilt)
        if self._is_shared:
            patches = select_rows(self.whole.readout.patches, rebuilt)
        else:
            patches = tokenizer.encoder.batch(
                pixels,
                mask=self._views.hidden,
                drop_rate=self._config.reconstruction_drop,
                key=jr.fold_in(self._key, SUBSET_KEY),
            ).readout.patches
        size = tokenizer.config.patch_size
        rows, columns = pixels.shape[1] // size, pixels.shape[2] // size

        def grid(read_out: Callable[[Array], Array]) -> Array:
            values = read_out(patches).astype(jnp.float32)
            return values.reshape(len(patches), rows, columns, values.shape[-1])

        mean = grid(tokenizer.bottleneck)
        if POSTERIOR not in self._heads:
            return SubsetPass(pixels, mean, mean, None)
        assert self._views.draws is not None
        log_variance = jnp.clip(grid(self._heads[POSTERIOR]), *LOG_VARIANCE)
        latents = mean + jnp.exp(log_variance / 2) * self._views.draws[POSTERIOR]
        return SubsetPass(pixels, latents, mean, log_variance)

    @functools.cached_property
    def rebuilt(self) -> Float[Array, "subset height width 3"]:
        """What the decoder makes of the latents of `subset`, in normalized pixels."""
        return self._tokenizer.decoder.batch(self.subset.latents)

    @functools.cached_property
    def _pixels(self) -> Float[Array, "batch height width 3"]:
        assert self._views.whole is not None
        return self._tokenizer.normalize(self._views.whole)


def shares_whole_pass(config: PretrainConfig, needs: Needs) -> bool:
    """Whether decoded images are rows of the pass that contrast makes anyway."""
    has_no_drop = config.contrast_drop == config.reconstruction_drop == 0
    is_same = has_no_drop and not config.controls.masks_patches
    return Needs.PAIRS in needs and is_same
