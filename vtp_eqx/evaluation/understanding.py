"""What frozen features know: linear probe, nearest neighbors, zero-shot classes.

Features are rows of numpy arrays, labels are integers from 0. Every score is a share of
test rows in [0, 1], and the same in every run: nothing here draws random numbers.
"""

from collections.abc import Mapping, Sequence

from jaxtyping import Float, Int
import numpy as np
import scipy.optimize


# Ours: strengths of the penalty tried, from strong to weak, on standardized features.
PENALTIES = (1e-2, 1e-3, 1e-4)
MAX_ITERATIONS = 150  # ours: of L-BFGS, per penalty
HELD_OUT = 10  # ours: every tenth training row chooses the penalty


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
        scores.append(accuracy(train[held] @ weight, train_labels[held]))
        fits.append((penalty, weight))
    penalty, weight = fits[int(np.argmax(scores))]
    weight = fit(train, train_labels, weight, penalty)
    return accuracy(test @ weight, test_labels)


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
    """`linear_probe` of each attribute, by name."""
    if train_attributes.keys() != test_attributes.keys():
        raise ValueError(
            "Both sets must have the same attributes; got "
            f"{sorted(train_attributes)} and {sorted(test_attributes)}: leave out "
            "those that one set lacks."
        )
    return {
        name: linear_probe(train, labels, test, test_attributes[name])
        for name, labels in train_attributes.items()
    }


def neighbor_accuracy(
    train: Float[np.ndarray, "train width"],
    train_labels: Int[np.ndarray, " train"],
    test: Float[np.ndarray, "test width"],
    test_labels: Int[np.ndarray, " test"],
    *,
    num_neighbors: int = 20,
    temperature: float = 0.07,
) -> float:
    """Accuracy of a vote among nearest training rows by cosine similarity.

    A neighbor of similarity `s` votes with `exp(s / temperature)`: Wu et al. 2018,
    https://arxiv.org/abs/1805.01978, section 3.4, with the values of DINO.
    """
    check_rows("train", train, train_labels)
    check_rows("test", test, test_labels)
    if not 1 <= num_neighbors <= len(train):
        raise ValueError(
            f"`num_neighbors` must be between 1 and the {len(train)} training rows; "
            f"got {num_neighbors}: ask for fewer."
        )
    num_classes = 1 + int(max(train_labels.max(), test_labels.max()))
    bank, right = unit(train), 0
    for start in range(0, len(test), 1024):
        similarity = unit(test[start : start + 1024]) @ bank.T
        nearest = np.argpartition(-similarity, num_neighbors - 1, axis=1)
        nearest = nearest[:, :num_neighbors]
        votes = np.exp((np.take_along_axis(similarity, nearest, 1) - 1) / temperature)
        scores = np.zeros((len(similarity), num_classes))
        np.add.at(
            scores, (np.arange(len(similarity))[:, None], train_labels[nearest]), votes
        )
        right += int((scores.argmax(1) == test_labels[start : start + 1024]).sum())
    return right / len(test)


def class_embeddings(
    prompts: Float[np.ndarray, "classes prompts embed"],
) -> Float[np.ndarray, "classes embed"]:
    """One unit-norm embedding a class: the mean of its unit-norm prompt embeddings."""
    return unit(unit(prompts).mean(axis=1))


def zero_shot_accuracy(
    images: Float[np.ndarray, "count embed"],
    labels: Int[np.ndarray, " count"],
    classes: Float[np.ndarray, "classes embed"],
) -> float:
    """Share of images whose most similar class embedding (cosine) is their own."""
    check_rows("images", images, labels)
    if labels.max() >= len(classes):
        raise ValueError(
            f"Every label needs a class embedding; got label {labels.max()} and "
            f"{len(classes)} classes: embed the others."
        )
    return accuracy(unit(images) @ unit(classes).T, labels)


def unit(rows: Float[np.ndarray, "*axes width"]) -> Float[np.ndarray, "*axes width"]:
    """`rows` at norm 1; a row of zeros stays as it is."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.maximum(norms, np.finfo(rows.dtype).tiny)


def accuracy(
    logits: Float[np.ndarray, "count classes"], labels: Int[np.ndarray, " count"]
) -> float:
    """Share of rows whose largest logit is at their label."""
    return float(np.mean(logits.argmax(axis=1) == labels))


def check_rows(name: str, rows: np.ndarray, labels: np.ndarray) -> None:
    """An error where `rows` are none, not finite, or `labels` are below 0."""
    if len(rows) == 0:
        raise ValueError(f"`{name}` needs at least one row of features; got none.")
    if not np.isfinite(rows).all():
        raise ValueError(
            f"Features must be finite; got NaN or infinity in `{name}`: look at the "
            "images they come from."
        )
    if labels.min() < 0:
        raise ValueError(
            f"Labels are integers from 0; got {labels.min()} in `{name}`: leave out "
            "rows without a label."
        )
