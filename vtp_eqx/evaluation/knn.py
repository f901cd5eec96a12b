"""Nearest-neighbor classification in frozen features, and its protocol over images."""

from collections.abc import Sequence

from jaxtyping import Float, Int
import numpy as np

from vtp_eqx.evaluation.accuracy import check_rows, nearest_rows, unit
from vtp_eqx.evaluation.card import Numbers, settings, tokenizer_card, write_numbers
from vtp_eqx.evaluation.extract import ExtractConfig, train_and_test_features
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.linear_probe import last
from vtp_eqx.models.tokenizer import Tokenizer


TEMPERATURE = 0.07  # DINO


def neighbors(
    tokenizer: Tokenizer,
    train: Images,
    test: Images,
    place: ExtractConfig,
    *,
    counts: Sequence[int],
) -> Numbers:
    """Accuracy of votes among the nearest training images, for each count of them.

    In the class token of the last block, at norm 1: DINOv2's evaluation.
    """
    of_train, of_test = train_and_test_features(last, tokenizer, train, test, place)
    labels, test_labels = of_train.labels(train), of_test.labels(test)
    protocol = settings(temperature=TEMPERATURE)
    card = tokenizer_card(tokenizer, of_test, test, protocol, reference=of_train)
    bank, rows = of_train.column("summary"), of_test.column("summary")
    numbers = {
        f"{count} nearest neighbors": neighbor_accuracy(
            bank, labels, rows, test_labels, num_neighbors=count
        )
        for count in counts
    }
    return write_numbers(numbers, card, of_test, place, "neighbors")


def neighbor_accuracy(
    train: Float[np.ndarray, "train width"],
    train_labels: Int[np.ndarray, " train"],
    test: Float[np.ndarray, "test width"],
    test_labels: Int[np.ndarray, " test"],
    *,
    num_neighbors: int = 20,
) -> float:
    """Accuracy of a vote among nearest training rows by cosine similarity.

    A neighbor of similarity `s` votes with `exp(s / TEMPERATURE)`: Wu et al. 2018,
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
    right = 0
    for block, nearest, cosine in nearest_rows(unit(test), unit(train), num_neighbors):
        scores = np.zeros((len(nearest), num_classes))
        voted = np.arange(len(nearest))[:, None], train_labels[nearest]
        np.add.at(scores, voted, np.exp((cosine - 1) / TEMPERATURE))
        right += int((scores.argmax(1) == test_labels[block]).sum())
    return right / len(test)
