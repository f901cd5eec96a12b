"""The job of training a pixel decoder anew on frozen latents, in a folder."""

from pathlib import Path

import equinox as eqx
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Float, UInt8
import numpy as np

from vtp_eqx.config import DecodeConfig
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.mesh import data_mesh, gather_to_host
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.batches import ArrayBatches
from vtp_eqx.runs.loop import Callbacks, Progress, run_training
from vtp_eqx.training.decode import (
    EncodedBatch,
    init_decoder_training,
    with_new_decoder,
)
from vtp_eqx.training.pca_start import solve_decoder


START_IMAGES = 2048  # images that the linear start is solved on


def train_decoder(
    config: DecodeConfig,
    tokenizer: Tokenizer,
    images: UInt8[np.ndarray, "num height width 3"],
    latents: Float[np.ndarray, "num rows columns channels"],
    *,
    folder: Path,
    mesh: Mesh | None = None,
    perceptual: Perceptual | None = None,
    progress: Progress = lambda done, num_steps, metrics: None,
) -> Tokenizer:
    """`tokenizer` with a decoder that learned to invert its latents; all else is kept.

    - `latents`: what `tokenizer.encode` makes of `images`. Noise is in units of their
      deviation: with it, the tokenizer's latent statistics must have been measured.
    - `folder`: config, log and checkpoints; a run that was cut off continues from them,
      with the same config or else a `ValueError`.
    - `perceptual`: the network of LPIPS, where that has a weight.
    """
    mesh = data_mesh() if mesh is None else mesh
    begun = with_new_decoder(tokenizer, config.decoder, key=jr.key(config.seed))
    if config.linear_start:
        begun = solve_decoder(begun, images[:START_IMAGES])
    state, step = init_decoder_training(config, begun, mesh, perceptual)
    arrays = {"image": images, "latents": latents}
    batches = ArrayBatches(EncodedBatch, arrays, config.batch_size, seed=config.seed)
    state = run_training(
        state, step, batches,
        num_steps=config.num_steps, mesh=mesh, folder=folder, progress=progress,
        config=config, callbacks=Callbacks(rows=batches.rows),
        recompute_every=config.recompute_every,
    )  # fmt: skip
    decoder = gather_to_host(state.teacher)
    return eqx.tree_at(lambda tokenizer: tokenizer.decoder, begun, decoder)
