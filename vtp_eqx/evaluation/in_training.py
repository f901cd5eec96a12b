"""Evaluation of a tokenizer during its training: quick, and always on the same images.

Numbers are for curves of one run, not for comparisons: images are few, and the probe
has one penalty. Otherwise they are those of the protocols beside, of the same images.
"""

from collections.abc import Mapping
import dataclasses
from pathlib import Path

from jaxtyping import Int, UInt8
import numpy as np

from vtp_eqx.evaluation import card
from vtp_eqx.evaluation.batches import BYTES
from vtp_eqx.evaluation.extract import extract_features
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.linear_probe import last_block, linear_probe
from vtp_eqx.evaluation.reconstruction import mean_score, reconstruction_psnr
from vtp_eqx.evaluation.zero_shot import embed, embed_prompts, zero_shot_accuracy
from vtp_eqx.models.arrays import arrays_hash, latents_hash, weights_hash
from vtp_eqx.models.tokenizer import Tokenizer


PENALTIES = (1e-3,)  # ours: one of those that `linear_probe` would choose from


@dataclasses.dataclass(frozen=True)
class LabeledImages:
    """Images with their classes; a label of -1 stands for none."""

    image: UInt8[np.ndarray, "num size size 3"]
    label: Int[np.ndarray, " num"]

    @property
    def has_labels(self) -> bool:
        """Whether all images have a class, and not all the same."""
        return bool((self.label >= 0).all()) and len(set(self.label.tolist())) > 1


def evaluate_tokenizer(
    tokenizer: Tokenizer,
    train: LabeledImages | None,
    test: LabeledImages,
    prompts: Int[np.ndarray, "classes prompts context"] | None = None,
) -> dict[str, float]:
    """PSNR, probe and zero-shot accuracy by name, each where it can be measured.

    - `psnr` of the reconstructions, rounded to bytes.
    - `probe`: accuracy of a linear probe on summary and mean patch that was fitted to
      `train`, with one penalty.
    - `zero_shot`: accuracy of the classes whose names `prompts` are, as ids.
    """
    test_images = Images.of(test.image)
    seen = extract_features(reconstruction_psnr, tokenizer, test_images)
    numbers = {"psnr": mean_score(seen, "PSNR")}
    if not test.has_labels:
        return numbers
    if train is not None and train.has_labels:
        of_train, of_test = (
            extract_features(last_block, tokenizer, images).column("1 blocks")
            for images in (Images.of(train.image), test_images)
        )
        numbers["probe"] = linear_probe(
            of_train, train.label, of_test, test.label, penalties=PENALTIES
        )
    if prompts is not None and tokenizer.text is not None:
        embeddings = extract_features(embed, tokenizer, test_images).column("embedding")
        numbers["zero_shot"] = zero_shot_accuracy(
            embeddings, test.label, embed_prompts(tokenizer, prompts)
        )
    return numbers


def write_card(
    path: Path,
    numbers: Mapping[str, float],
    tokenizer: Tokenizer,
    train: LabeledImages,
    test: LabeledImages,
    *,
    seed: int,
    latents_of: str = "",
) -> None:
    """Writes the numbers of `evaluate_tokenizer` with their card.

    `seed` is that of the tokenizer's training, and `latents_of` says over which images
    its latent statistics were taken.
    """
    card.write(
        path,
        numbers,
        card.EvaluationCard(
            num_samples=len(test.image),
            num_reference=len(train.image),
            reference_hash=arrays_hash({"image": train.image, "label": train.label}),
            tokenizer_hash=weights_hash(tokenizer),
            latents_hash=latents_hash(tokenizer),
            latents_of=latents_of,
            precision="float32",
            protocol=f"online: PSNR of {BYTES}, one-penalty probe of the summary and "
            "mean patch",
            images_hash=arrays_hash({"image": test.image}),
            seed=seed,
        ),
        num_evaluated=len(test.image),
    )
