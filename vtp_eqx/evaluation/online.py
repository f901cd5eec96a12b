"""What a tokenizer knows while it is still being trained: quick, and always the same.

Numbers are for curves of one run, not for comparisons: images are few, and the probe
has one penalty. What is published is measured by `protocols` and `probe` beside.
"""

from collections.abc import Mapping
import dataclasses
from pathlib import Path

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8
import numpy as np

from vtp_eqx.evaluation import card
from vtp_eqx.evaluation.batches import in_batches, rebuild, summarize
from vtp_eqx.evaluation.reconstruction import psnr
from vtp_eqx.evaluation.understanding import (
    class_embeddings,
    linear_probe,
    zero_shot_accuracy,
)
from vtp_eqx.models.arrays import arrays_hash, latents_hash, weights_hash
from vtp_eqx.models.tokenizer import Tokenizer


PENALTY = 1e-3  # ours: one of those that `linear_probe` would choose from


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
    numbers = {"psnr": float(np.mean(in_batches(_psnr, tokenizer, judged.image)))}
    labeled = judged.has_labels
    if labeled and known is not None and known.has_labels:
        numbers["probe"] = linear_probe(
            in_batches(summarize, tokenizer, known.image),
            known.label,
            in_batches(summarize, tokenizer, judged.image),
            judged.label,
            penalties=(PENALTY,),
        )
    if labeled and prompts is not None and tokenizer.text is not None:
        classes, count, context = prompts.shape
        texts = in_batches(
            Tokenizer.embed_text, tokenizer, prompts.reshape(-1, context)
        )
        numbers["zero_shot"] = zero_shot_accuracy(
            in_batches(Tokenizer.embed_image, tokenizer, judged.image),
            judged.label,
            class_embeddings(texts.reshape(classes, count, -1)),
        )
    return numbers


def write_card(
    path: Path,
    numbers: Mapping[str, float],
    tokenizer: Tokenizer,
    known: Labeled,
    judged: Labeled,
    *,
    seed: int,
    latents_of: str = "",
) -> None:
    """Writes what `judge` said of a tokenizer, and what that depends on.

    `seed` is that of the tokenizer's training, and `latents_of` says over which images
    its latent statistics were taken.
    """
    card.write(
        path,
        numbers,
        card.EvaluationCard(
            num_samples=len(judged.image),
            num_reference=len(known.image),
            reference_hash=arrays_hash({"image": known.image, "label": known.label}),
            tokenizer_hash=weights_hash(tokenizer),
            latents_hash=latents_hash(tokenizer),
            latents_of=latents_of,
            precision="float32",
            protocol="online: PSNR, one-penalty probe of the summary and mean patch",
            images_hash=arrays_hash({"image": judged.image}),
            seed=seed,
        ),
        num_evaluated=len(judged.image),
    )


def _psnr(
    tokenizer: Tokenizer, image: Float[Array, "height width 3"]
) -> Float[Array, ""]:
    return psnr(jnp.clip(rebuild(tokenizer, image), 0, 1), image)
