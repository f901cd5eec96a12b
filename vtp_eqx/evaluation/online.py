"""What a tokenizer knows while it is still being trained: quick, and always the same.

Numbers are for curves of one run, not for comparisons: images are few, and the probe
has one penalty. What is published is measured by `protocols` and `probe` beside.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8
import numpy as np

from vtp_eqx.evaluation.reconstruction import reconstruction_scores
from vtp_eqx.evaluation.understanding import (
    class_embeddings,
    linear_probe,
    zero_shot_accuracy,
)
from vtp_eqx.models.tokenizer import Tokenizer


PENALTY = 1e-3  # ours: one of those that `linear_probe` would choose from
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Labeled:
    """Images with their classes; a label of -1 stands for none."""

    image: UInt8[np.ndarray, "num size size 3"]
    label: Int[np.ndarray, " num"]

    @property
    def has_labels(self) -> bool:
        """Whether all images have a class, and not all the same."""
        return bool((self.label >= 0).all()) and len(set(self.label.tolist())) > 1


def judge(
    tokenizer: Tokenizer,
    known: Labeled | None,
    judged: Labeled,
    prompts: Int[np.ndarray, "classes prompts context"] | None = None,
) -> dict[str, float]:
    """Numbers by name, each where it can be taken.

    - `psnr` of the reconstructions.
    - `probe`: accuracy of a linear probe on summary and mean patch that was fitted to
      `known`.
    - `zero_shot`: accuracy of the classes whose names `prompts` are, as ids.
    """
    numbers = {"psnr": float(np.mean(_scores(tokenizer, judged.image)))}
    labeled = judged.has_labels
    if labeled and known is not None and known.has_labels:
        numbers["probe"] = linear_probe(
            _in_batches(_features, tokenizer, known.image),
            known.label,
            _in_batches(_features, tokenizer, judged.image),
            judged.label,
            penalties=(PENALTY,),
        )
    if labeled and prompts is not None and tokenizer.text is not None:
        classes, count, context = prompts.shape
        texts = _in_batches(_embed_text, tokenizer, prompts.reshape(-1, context))
        numbers["zero_shot"] = zero_shot_accuracy(
            _in_batches(_embed_image, tokenizer, judged.image),
            judged.label,
            class_embeddings(texts.reshape(classes, count, -1)),
        )
    return numbers


def reconstructed(
    tokenizer: Tokenizer, images: UInt8[np.ndarray, "num size size 3"]
) -> UInt8[np.ndarray, "num size size 3"]:
    """What comes back of images, clipped and rounded."""
    rebuilt = _in_batches(_rebuild, tokenizer, images)
    return (np.clip(rebuilt, 0, 1) * 255).round().astype(np.uint8)


def encoded_latents(
    tokenizer: Tokenizer, images: UInt8[np.ndarray, "num size size 3"]
) -> Float[np.ndarray, "num rows columns channels"]:
    """The raw latents of images."""
    return _in_batches(_encode, tokenizer, images)


def _encode(tokenizer: Tokenizer, image: Array) -> Array:
    return tokenizer.encode(image)


def _scores(
    tokenizer: Tokenizer, images: UInt8[np.ndarray, "num size size 3"]
) -> Float[np.ndarray, " num"]:
    rebuilt = _in_batches(_rebuild, tokenizer, images)
    parts = []
    for start in range(0, len(images), _BATCH):
        some = slice(start, start + _BATCH)
        unit = jnp.asarray(images[some], jnp.float32) / 255
        parts.append(reconstruction_scores(unit, jnp.asarray(rebuilt[some]))["psnr"])
    return np.concatenate(parts)


def _rebuild(tokenizer: Tokenizer, image: Array) -> Array:
    return tokenizer.decode(tokenizer.encode(image))


def _features(tokenizer: Tokenizer, image: Array) -> Array:
    (seen,) = tokenizer.features(image)
    return jnp.concatenate([seen.cls, jnp.mean(seen.patches, axis=0)])


def _embed_image(tokenizer: Tokenizer, image: Array) -> Array:
    return tokenizer.embed_image(image)


def _embed_text(tokenizer: Tokenizer, ids: Array) -> Array:
    return tokenizer.embed_text(ids)


def _in_batches(function, tokenizer: Tokenizer, rows: np.ndarray) -> np.ndarray:
    """`function(tokenizer, row)` of every row, compiled once for all batches."""
    parts = []
    for start in range(0, len(rows), _BATCH):
        some = rows[start : start + _BATCH]
        # Filled up with repeats, so that the last batch is not compiled for itself.
        filled = some[np.arange(_BATCH) % len(some)]
        parts.append(np.asarray(_apply(function, tokenizer, filled))[: len(some)])
    return np.concatenate(parts)


@eqx.filter_jit
def _apply(function, tokenizer: Tokenizer, rows: Array | np.ndarray) -> Array:
    if rows.dtype == np.uint8:
        rows = rows.astype(jnp.float32) / 255
    return jax.vmap(lambda row: function(tokenizer, row))(jnp.asarray(rows))
