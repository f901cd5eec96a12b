"""The presets at sizes that compile in seconds: all of a preset but its sizes."""

import dataclasses

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array
import numpy as np

from vtp_eqx.config import GenerateConfig, PretrainConfig
from vtp_eqx.training.generate import init_generator_training, LatentBatch
from vtp_eqx.training.pretrain import init_pretraining
from vtp_eqx.training.pretrain_views import CaptionedBatch
from vtp_eqx.training.state import TrainState
from vtp_eqx.training.step import Step


Config = PretrainConfig | GenerateConfig
SIDE, FEATURES = 16, 8  # pixels of an image; width of what latents are aligned with
_BLOCKS = dict(width=16, depth=1, num_heads=2, remat="none")
_FITTING = dict(accumulate=1, sharding="none")


def tiny_twin(config: Config) -> Config:
    """`config` with small networks, images and batches, and all else as it is.

    But for LPIPS, whose weights come from elsewhere, and for how a step fits onto its
    devices, on which numbers depend by rounding alone.
    """
    if isinstance(config, GenerateConfig):
        dit = dataclasses.replace(
            config.dit, **_BLOCKS, latent_width=4, latent_size=4, num_classes=5
        )
        return dataclasses.replace(
            config, dit=dit, batch_size=8, optimizer=_short(config), num_steps=8,
            **_FITTING,
        )  # fmt: skip
    tokenizer, prototypes = config.tokenizer, config.prototypes
    # A group of neighbors, where there is one, is the whole of a batch this small.
    group = None if config.distillation.koleo_group is None else 4
    smaller = lambda shape: dataclasses.replace(shape, **_BLOCKS)
    assert tokenizer.text is not None
    assert prototypes is not None
    return dataclasses.replace(
        config,
        tokenizer=dataclasses.replace(
            tokenizer, encoder=smaller(tokenizer.encoder),
            decoder=smaller(tokenizer.decoder),
            text=dataclasses.replace(
                tokenizer.text, **_BLOCKS, context=6, vocabulary=20
            ),
            image_size=SIDE, patch_size=4, latent_width=4,
        ),
        prototypes=dataclasses.replace(
            prototypes, num_prototypes=16, hidden_width=8, bottleneck_width=4,
            num_layers=2,
        ),
        views=dataclasses.replace(
            config.views, global_size=SIDE, local_size=8, num_local=1, blur_radius=1
        ),
        distillation=dataclasses.replace(config.distillation, koleo_group=group),
        reconstruction=dataclasses.replace(config.reconstruction, perceptual_weight=0),
        alignment=dataclasses.replace(config.alignment, width=FEATURES),
        optimizer=_short(config),
        batch_size=16, distillation_batch=4, reconstruction_batch=2, num_steps=8,
        **_FITTING,
    )  # fmt: skip


def init_twin(config: Config, mesh: Mesh) -> tuple[TrainState, Step]:
    """The first state of a twin and its compiled step."""
    if isinstance(config, GenerateConfig):
        return init_generator_training(config, mesh)
    nothing = np.zeros((0, SIDE, SIDE, 3), np.uint8)
    return init_pretraining(config, nothing, mesh, vision=_colors)


def twin_batch(config: Config, number: int) -> CaptionedBatch | LatentBatch:
    """Random examples: a function of `number`."""
    draw, size = np.random.default_rng(number), config.batch_size
    if isinstance(config, GenerateConfig):
        side, channels = config.dit.latent_size, config.dit.latent_width
        latents = draw.standard_normal((size, side, side, channels))
        return LatentBatch(latents.astype(np.float32), draw.integers(0, 5, size))
    image = draw.integers(0, 256, (size, SIDE, SIDE, 3)).astype(np.uint8)
    caption = draw.integers(1, 18, (size, 6)).astype(np.int32)
    caption[:, 5] = 19  # the end token has the largest id
    return CaptionedBatch(image, caption if "contrast" in config.term_weights else None)


def _colors(image: Array) -> Array:
    """In place of a frozen network: mean colors of patches, `[4, 4, FEATURES]`."""
    patches = image.reshape(4, 4, 4, 4, 3).mean((1, 3))
    return jnp.concatenate([patches, patches**2, patches[..., :2]], axis=-1)


def _short(config: Config):
    """Its optimizer, whose first steps are those of a run that has warmed up."""
    frozen = min(config.optimizer.freeze_prototypes, 1)
    return dataclasses.replace(
        config.optimizer, warmup_steps=1, freeze_prototypes=frozen
    )
