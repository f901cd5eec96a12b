"""The job of pre-training a tokenizer on arrays, in a folder."""

from collections.abc import Mapping
from pathlib import Path

from jax.sharding import Mesh
import numpy as np

from vtp_eqx.config import PretrainConfig, require
from vtp_eqx.data.caption_shuffle import caption_rows
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.mesh import data_mesh, gather_to_host
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.batches import ArrayBatches
from vtp_eqx.runs.loop import Callbacks, Progress, run_training
from vtp_eqx.training.pretrain import init_pretraining, text_config
from vtp_eqx.training.pretrain_views import CaptionedBatch
from vtp_eqx.training.terms.alignment import VisionFeatures


PCA_IMAGES = 2048  # images that the linear start is solved on


def pretrain(
    config: PretrainConfig,
    data: Mapping[str, np.ndarray],
    *,
    folder: Path,
    group: int = 1,
    parts: tuple[int, ...] = (),
    mesh: Mesh | None = None,
    perceptual: Perceptual | None = None,
    vision: VisionFeatures | None = None,
    progress: Progress = lambda done, num_steps, metrics: None,
) -> Tokenizer:
    """The tokenizer that `config` learns from `data`.

    - `data`: `image`, uint8 `[num, height, width, 3]`, and `caption`, int32
      `[num, context]`, which only contrast needs.
    - `folder`: config, log and checkpoints; a run that was cut off continues from them,
      with the same config or else a `ValueError`.
    - `group`: this many consecutive examples stay together in a batch.
    - `parts`: sizes of consecutive parts of `data`; each batch is of one of them.
    - `perceptual`: the network of LPIPS, where that has a weight.
    - `vision`: the frozen network that latents are aligned with, where that has a
      weight.

    Latent statistics are not measured here.
    """
    check_data(config, data)
    mesh = data_mesh() if mesh is None else mesh
    state, step = init_pretraining(
        config, data["image"][:PCA_IMAGES], mesh, perceptual, vision
    )
    batches = array_batches(config, data, group=group, parts=parts)
    state = run_training(
        state, step, batches,
        num_steps=config.num_steps, mesh=mesh, folder=folder, progress=progress,
        config=config, callbacks=Callbacks(rows=batches.rows),
        recompute_every=config.recompute_every,
    )  # fmt: skip
    return gather_to_host(state.student.tokenizer)


def array_batches(
    config: PretrainConfig,
    data: Mapping[str, np.ndarray],
    *,
    group: int = 1,
    parts: tuple[int, ...] = (),
) -> ArrayBatches:
    """The batches of a pre-training on `data`, from any step on; see `pretrain`."""
    names = ["image"] if text_config(config) is None else ["image", "caption"]
    arrays = {name: data[name] for name in names}
    if (seed := config.controls.caption_shuffle) is not None:
        arrays["caption"] = data["caption"][caption_rows(len(data["caption"]), seed)]
    return ArrayBatches(
        lambda image, caption=None: CaptionedBatch(image, caption),
        arrays, config.batch_size, seed=config.seed, group=group, parts=parts,
    )  # fmt: skip


def check_data(config: PretrainConfig, data: Mapping[str, np.ndarray]) -> None:
    """Raises `ValueError` where `data` is not what `config` needs."""
    image, size = data["image"], config.tokenizer.image_size
    require(
        image.dtype == np.uint8
        and image.ndim == 4
        and image.shape[-1] == 3
        and len(image) > 0,
        "Training images must be uint8 of shape [num, height, width, 3], one or more; "
        f"got {image.dtype} {list(image.shape)}: convert them.",
    )
    require(
        min(image.shape[1:3]) >= size,
        f"Training images must have at least `image_size` pixels a side; got "
        f"{image.shape[1]} x {image.shape[2]} for {size}: enlarge them or lower it.",
    )
    text = text_config(config)
    if text is not None:
        context, vocabulary = text.context, text.vocabulary
        caption = data.get("caption")
        require(
            caption is not None and caption.shape == (len(image), context),
            f"Contrast needs `caption` ids of shape {[len(image), context]}; got "
            f"{None if caption is None else list(caption.shape)}: encode the captions.",
        )
        assert caption is not None
        low, high = int(caption.min()), int(caption.max())
        require(
            low >= 0 and high < vocabulary,
            f"Caption ids must lie in the text tower's vocabulary of {vocabulary}; "
            f"got {low if low < 0 else high}: use the vocabulary they were made with.",
        )
