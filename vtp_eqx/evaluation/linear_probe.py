"""Linear probes: multinomial logistic regression on frozen features.

Fitted by L-BFGS, with a penalty that is chosen on training rows alone: the probe of
studies and of evaluation during training, the same in every run. The published one,
whose best classifier is chosen on the test rows, is in `probe_sweep`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np
import scipy.optimize

from vtp_eqx.evaluation.accuracy import check_rows, top_accuracy
from vtp_eqx.evaluation.card import Numbers, settings, tokenizer_card, write_numbers
from vtp_eqx.evaluation.extract import ExtractConfig, train_and_test_features
from vtp_eqx.evaluation.images import Images
from vtp_eqx.models.encoder import Features
from vtp_eqx.models.tokenizer import Tokenizer


ProbeFeatures = Literal["blocks", "last", "latents", "mean latents"]
# Ours: strengths of the penalty tried, from strong to weak, on standardized features.
PENALTIES = (1e-2, 1e-3, 1e-4)
MAX_ITERATIONS = 150  # ours: of L-BFGS, per penalty
HELD_OUT = 10  # ours: every tenth training row chooses the penalty


def joined(features: Sequence[Features]) -> Float[Array, " joined"]:
    """Class tokens of several blocks, joined with the mean patch of the last one."""
    patches = jnp.mean(features[-1].patches, axis=0)
    return jnp.concatenate([*[block.cls for block in features], patches])


def last_block(tokenizer: Tokenizer, image: Any) -> dict[str, Any]:
    """Class token and mean patch of the last block, at the encoder's full width."""
    return {"1 blocks": joined(tokenizer.features(image))}


def blocks(tokenizer: Tokenizer, image: Any) -> dict[str, Any]:
    """Class tokens of the last block and of the last four, with the mean patch."""
    features = tokenizer.features(image, min(4, tokenizer.config.encoder.depth))
    counts = {1, len(features)}
    return {f"{count} blocks": joined(features[-count:]) for count in counts}


def last(tokenizer: Tokenizer, image: Any) -> dict[str, Any]:
    """The class token of the last block (`summary`) and its mean patch, each alone."""
    features = tokenizer.features(image)[-1]
    return {"summary": features.cls, "mean patch": jnp.mean(features.patches, axis=0)}


def latents(tokenizer: Tokenizer, image: Any) -> dict[str, Any]:
    """The whole grid of latents."""
    return {"latents": tokenizer.encode(image).reshape(-1)}


def mean_latents(tokenizer: Tokenizer, image: Any) -> dict[str, Any]:
    """The mean of the latents."""
    return {"mean latents": jnp.mean(tokenizer.encode(image), axis=(0, 1))}


READERS: dict[ProbeFeatures, Callable[[Tokenizer, Any], dict[str, Any]]] = {
    "blocks": blocks,
    "last": last,
    "latents": latents,
    "mean latents": mean_latents,
}


def probe(
    tokenizer: Tokenizer,
    train: Images,
    test: Images,
    place: ExtractConfig,
    *,
    reads: ProbeFeatures = "blocks",
) -> Numbers:
    """Test accuracy of `linear_probe`, for each kind of features."""
    of_train, of_test = train_and_test_features(
        READERS[reads], tokenizer, train, test, place
    )
    labels, test_labels = of_train.labels(train), of_test.labels(test)
    rows = of_train.features()
    numbers = {
        f"linear probe, {kind}": linear_probe(rows[kind], labels, tested, test_labels)
        for kind, tested in of_test.features().items()
    }
    protocol = settings(
        reads=reads, fit="L-BFGS", penalties=PENALTIES,
        selected="on held-out training images",
    )  # fmt: skip
    card = tokenizer_card(tokenizer, of_test, test, protocol, reference=of_train)
    return write_numbers(numbers, card, of_test, place, "probe")


def linear_probe(
    train: Float[np.ndarray, "train width"],
    train_labels: Int[np.ndarray, " train"],
    test: Float[np.ndarray, "test width"],
    test_labels: Int[np.ndarray, " test"],
    *,
    penalties: Sequence[float] = PENALTIES,
) -> float:
    """Test accuracy of multinomial logistic regression on frozen features.

    The penalty is chosen on every tenth training row, and the model with it is then
    fitted to all of them; test rows choose nothing. Fitted by L-BFGS, after
    CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020, appendix A.3), not by
    the SGD sweep of DINOv2, whose best classifier is chosen on the test rows.
    """
    check_rows("train", train, train_labels)
    check_rows("test", test, test_labels)
    num_classes = 1 + int(max(train_labels.max(), test_labels.max()))
    if len(train) < HELD_OUT:
        raise ValueError(
            f"A probe holds out one training row of {HELD_OUT}; got {len(train)} rows: "
            "train it on more."
        )
    train, test = standardized(train, test)
    held = np.arange(len(train)) % HELD_OUT == 0
    scores, fits = [], []
    weight = np.zeros((train.shape[1], num_classes), dtype=np.float32)
    # From strong to weak, each from the last: a near start saves most iterations.
    for penalty in sorted(penalties, reverse=True):
        weight = fit(train[~held], train_labels[~held], weight, penalty)
        scores.append(top_accuracy(train[held] @ weight, train_labels[held]))
        fits.append((penalty, weight))
    penalty, weight = fits[int(np.argmax(scores))]
    weight = fit(train, train_labels, weight, penalty)
    return top_accuracy(test @ weight, test_labels)


def fit(
    rows: Float[np.ndarray, "count width"],
    labels: Int[np.ndarray, " count"],
    start: Float[np.ndarray, "width classes"],
    penalty: float,
) -> Float[np.ndarray, "width classes"]:
    """Weights that minimize mean cross-entropy plus `penalty / 2` times their square.

    Every row ends in a constant 1 (see `standardized`), so the last row of the weights
    is the offset; it is not penalized.
    """
    penalized = np.full((start.shape[0], 1), penalty, dtype=np.float32)
    penalized[-1] = 0
    each = np.arange(len(rows))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = flat.reshape(start.shape).astype(np.float32)
        logits = rows @ weight
        logits -= logits.max(axis=1, keepdims=True)
        own = logits[each, labels]
        shares = np.exp(logits)
        total = shares.sum(axis=1, keepdims=True)
        loss = np.mean(np.log(total[:, 0]) - own, dtype=np.float64)
        shares /= total
        shares[each, labels] -= 1
        gradient = rows.T @ shares / len(rows) + penalized * weight
        loss += 0.5 * np.sum(penalized * weight**2, dtype=np.float64)
        return float(loss), gradient.ravel().astype(np.float64)

    found = scipy.optimize.minimize(
        objective,
        start.ravel().astype(np.float64),
        jac=True,
        method="L-BFGS-B",
        # Single precision in the sums: finer steps than these are rounding.
        options={"maxiter": MAX_ITERATIONS, "ftol": 1e-6, "gtol": 1e-5},
    )
    return found.x.reshape(start.shape).astype(np.float32)


def standardized(
    train: Float[np.ndarray, "train width"], test: Float[np.ndarray, "test width"]
) -> tuple[Float[np.ndarray, "train wider"], Float[np.ndarray, "test wider"]]:
    """Both sets at mean 0 and deviation 1 of the training set, with a constant 1 added.

    A feature that does not vary in the training set becomes 0.
    """
    mean = train.mean(axis=0, dtype=np.float64)
    deviation = train.std(axis=0, dtype=np.float64)
    varies = deviation > 1e-6 * (1e-6 + np.abs(mean))
    scale = np.where(varies, 1 / np.where(varies, deviation, 1), 0)

    def apply(rows: np.ndarray) -> np.ndarray:
        scaled = (rows - mean) * scale
        return np.pad(scaled, [(0, 0), (0, 1)], constant_values=1).astype(np.float32)

    return apply(train), apply(test)


def probe_attributes(
    train: Float[np.ndarray, "train width"],
    train_attributes: Mapping[str, Int[np.ndarray, " train"]],
    test: Float[np.ndarray, "test width"],
    test_attributes: Mapping[str, Int[np.ndarray, " test"]],
) -> dict[str, float]:
    """`linear_probe` of each attribute, by name; both sets have the same ones."""
    return {
        name: linear_probe(train, labels, test, test_attributes[name])
        for name, labels in train_attributes.items()
    }
