"""The classes of images that are evaluated, for what cannot do without them."""

from jaxtyping import Int
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.data.images import UnreadableImageError
from vtp_eqx.data.labels import describe_label, label_of, NO_LABEL
from vtp_eqx.data.mixture import example_name, read_encoded
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.evaluation.images import Images


NUM_FIRST = 256  # ours: images whose labels are looked at before any is decoded


def check_classes(train: Images, test: Images) -> None:
    """A `ValueError` where two sets cannot have the same classes, before hours of work.

    That is where class folders differ, or one of the first labels is missing.
    """
    of_train, of_test = (
        getattr(images.source, "class_names", None) for images in (train, test)
    )
    require(
        of_train is None or of_test is None or of_train == of_test,
        "Training and test images have the same classes; these are in one only: "
        f"{sorted({*(of_train or ())} ^ {*(of_test or ())})[:5]}: use folders that "
        "match.",
    )
    for images in (train, test):
        first_labels(images)


def first_labels(images: Images) -> Int[np.ndarray, " some"]:
    """The labels of a few images, evenly spread; a `ValueError` where one has none.

    Those of all images that are in memory. Nothing is decoded.
    """
    rows, labels = images.rows, []
    if not isinstance(images.source, ArraySource):
        rows = rows[:: -(-len(rows) // NUM_FIRST)]
    read = []
    for row in rows.tolist():
        try:
            labels.append(label_of(read_encoded(images.source, row)))
            read.append(row)
        except UnreadableImageError:
            continue
    found = np.array(labels, np.int64)
    require_labels(images, np.array(read, np.int64), found)
    return found


def require_labels(
    images: Images, rows: Int[np.ndarray, " some"], labels: Int[np.ndarray, " some"]
) -> None:
    """A `ValueError` that counts `rows` without a label, and shows the first one."""
    without = rows[labels == NO_LABEL]
    if not len(without):
        return
    row = int(without[0])
    label = describe_label(read_encoded(images.source, row))
    raise ValueError(
        f"`label` ({label}, of {example_name(images.source, row)}) must be an integer "
        f"from 0 in every image, and {len(without)} of {len(rows)} images have none: "
        "leave those out, or give labels, such as by class folders."
    )
