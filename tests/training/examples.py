"""The smallest trainings of a decoder and of a generator, and what they learn from."""

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

from vtp_eqx.config import (
    DecodeConfig,
    DiTConfig,
    GenerateConfig,
    OptimizerConfig,
    TokenizerConfig,
    TransformerConfig,
)
from vtp_eqx.evaluation.latent_statistics import LatentSums
from vtp_eqx.models.tokenizer import Tokenizer


DECODE = DecodeConfig(
    decoder=TransformerConfig(width=24, depth=1, num_heads=2, norm="layernorm"),
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=1),
    ema_decay=0.5,
    batch_size=16,
    num_steps=30,
)
GENERATE = GenerateConfig(
    dit=DiTConfig(
        width=8, depth=1, num_heads=2, latent_size=2, latent_width=3, num_classes=5
    ),
    optimizer=OptimizerConfig(
        learning_rate=1e-2, warmup_steps=1, weight_decay=0.0, schedule="constant"
    ),
    ema_decay=0.999,
    batch_size=8,
    num_steps=6,
)
LATENTS = np.random.default_rng(0).standard_normal((16, 2, 2, 3)).astype(np.float32)
LATENTS /= LATENTS.std()
LABELS = np.arange(16, dtype=np.int32) % 5


def measured_tokenizer(config: TokenizerConfig, data: dict) -> Tokenizer:
    """An untrained tokenizer with the statistics of its latents of `data`."""
    tokenizer = eqx.filter_jit(Tokenizer)(config, key=jr.key(0))
    statistics = LatentSums.of(encode(tokenizer, data)).statistics()
    return tokenizer.with_statistics(*statistics)


def encode(tokenizer: Tokenizer, data: dict) -> np.ndarray:
    """The raw latents of all images."""
    return np.asarray(_encode(tokenizer, data["image"] / np.float32(255)))


@eqx.filter_jit
def _encode(tokenizer: Tokenizer, images: jax.Array) -> jax.Array:
    return jax.vmap(tokenizer.encode)(images)
