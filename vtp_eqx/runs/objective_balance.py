"""Weights of the objectives of a pre-training, and whether their gradients agree."""

from collections.abc import Mapping
import itertools
from pathlib import Path

import equinox as eqx
import jax
import jax.random as jr
from jax.sharding import Mesh
import numpy as np

from vtp_eqx.config import from_dict, PretrainConfig, require
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.mesh import data_mesh, replicate, shard_batch
from vtp_eqx.models.arrays import named_arrays, with_arrays
from vtp_eqx.runs.checkpoint import read_newest
from vtp_eqx.runs.pretrain import array_batches, check_data
from vtp_eqx.runs.run_dir import CHECKPOINTS, read_config
from vtp_eqx.training.gradient_cosines import make_gradient_cosines
from vtp_eqx.training.pretrain import initial_state, pretrain_objective, pretrain_terms
from vtp_eqx.training.terms.alignment import VisionFeatures


_READ = ("student", "teacher", "weights", "step")  # of the state


def objective_balance(
    folder: Path,
    data: Mapping[str, np.ndarray],
    *,
    num_batches: int,
    group: int = 1,
    parts: tuple[int, ...] = (),
    mesh: Mesh | None = None,
    perceptual: Perceptual | None = None,
    vision: VisionFeatures | None = None,
) -> dict[str, float]:
    """Weights of the loss terms, and cosines of their gradients on the encoder.

    Of the newest checkpoint of a pre-training that `pretrain` began in `folder`, also
    while it goes on, over the `num_batches` batches of `data` that follow it; the other
    arguments are those of `pretrain`. Networks compute in float32.

    - `weight contrast`: the weight of that term, which may be learned.
    - `gradient cosine contrast, reconstruction`: the mean over batches, for each pair.
    - `gradient cosine contrast, reconstruction, deviation`: over batches, of one of
      them; 0 for a single batch.
    """
    require(
        num_batches >= 1,
        f"`num_batches` ({num_batches}) must be 1 or more: raise it.",
    )
    fields = read_config(folder).get("config")
    if fields is None:
        raise FileNotFoundError(
            f"`folder` ({folder}) must be that of a pre-training, which has a config: "
            "name another."
        )
    config = from_dict(PretrainConfig, fields)
    check_data(config, data)
    mesh = data_mesh() if mesh is None else mesh
    skeleton = eqx.filter_eval_shape(initial_state, config, None)
    needed = {name: getattr(skeleton, name) for name in _READ}
    # What a state has beside arrays is in no checkpoint.
    is_shape = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    shapes, static = eqx.partition(needed, is_shape)
    arrays = read_newest(folder / CHECKPOINTS, named_arrays(shapes))
    state = eqx.combine(with_arrays(shapes, arrays), static)

    names = [term.name for term in pretrain_terms(config)]
    objective = pretrain_objective(
        config, num_shards=mesh.devices.size, perceptual=perceptual, vision=vision
    )
    encoder = lambda student: student.tokenizer.encoder
    compare_gradients = make_gradient_cosines(
        objective, names, encoder, mesh, accumulate=config.accumulate
    )
    student, teacher, step = replicate(
        (state["student"], state["teacher"], state["step"]), mesh
    )
    keys = jr.split(jr.fold_in(jr.key(config.seed), step), num_batches)
    batches = array_batches(config, data, group=group, parts=parts)(int(step))
    found = np.stack([
        compare_gradients(student, teacher, shard_batch(batch, mesh), step, key)
        for key, batch in zip(keys, itertools.islice(batches, num_batches), strict=True)
    ])  # fmt: skip
    weights = state["weights"].current()
    numbers = {f"weight {name}": float(weights[name]) for name in names}
    for (row, one), (column, other) in itertools.combinations(enumerate(names), 2):
        values, name = found[:, row, column], f"gradient cosine {one}, {other}"
        numbers[name] = float(values.mean())
        spread = values.std(ddof=1) if num_batches > 1 else 0.0
        numbers[f"{name}, deviation"] = float(spread)
    return numbers
