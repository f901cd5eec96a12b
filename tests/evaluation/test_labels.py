import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.images import UnreadableImageError
from vtp_eqx.evaluation import extract
from vtp_eqx.evaluation.extract import BatchConfig, extract_features, ExtractConfig
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.labels import check_classes, first_labels
from vtp_eqx.mesh import data_mesh


IMAGE = np.zeros((8, 8, 3), np.uint8)
ONE_HOT = np.array([0, 1, 0])


class Examples(list):
    """Examples in memory, as a source."""

    fingerprint = "0123"


def images_with(*labels):
    """Images with these labels; `...` for an example that has none."""
    examples = [
        {"image": IMAGE, **({} if label is ... else {"label": label})}
        for label in labels
    ]
    return Images(source=Examples(examples), crop=CenterCrop(8))


def brightness(scale, image):
    return {"mean": scale * jnp.mean(image)}


def seen(images, place):
    return extract_features(brightness, jnp.array(1.0), images, place)


# In batches of two, so that some have no label at all, some first and some last.
SPOILED = {
    "none at first": [..., 0, 1, 2, 0, 1],
    "none at last": [0, 1, 2, 0, 1, ...],
    "a batch of none": [0, 1, ..., ..., 0, 1],
    "null": [0, None, 1, 2, 0, 1],
    "-1": [0, 1, 2, -1, 0, 1],
    "one-hot": [ONE_HOT] * 6,
    "words": [0, 1, "cat", "dog", 0, 1],
    "not a number": [0, 1, np.nan, 2, 0, 1],
}


@pytest.mark.parametrize("labels", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize("cached", [False, True])
def test_what_needs_no_labels_ignores_them(labels, cached, tmp_path, monkeypatch):
    monkeypatch.setattr(extract, "FILE_IMAGES", 2)
    place = BatchConfig(batch_size=2, num_threads=1, mesh=data_mesh(1))
    if cached:
        place = ExtractConfig(
            folder=tmp_path, batch_size=2, num_threads=1, mesh=data_mesh(1)
        )
    images = images_with(*labels)
    table = seen(images, place)
    assert table.count == 6
    count = sum(not isinstance(label, int) or label < 0 for label in labels)
    with pytest.raises(ValueError, match=rf"of row \d\).* and {count} of 6 images"):
        table.labels(images)


@pytest.mark.parametrize("labels", SPOILED.values(), ids=SPOILED)
def test_what_needs_labels_says_so_before_any_image(labels):
    with pytest.raises(ValueError, match=r"`label` \(.*, of row \d\) must be an int"):
        first_labels(images_with(*labels))
    good = images_with(0, 1)
    for pair in ((good, images_with(*labels)), (images_with(*labels), good)):
        with pytest.raises(ValueError, match="have none"):
            check_classes(*pair)
    check_classes(good, good)


def test_all_labels_are_taken(tmp_path):
    images = images_with(2, np.array([0]), 1.0)
    assert first_labels(images).tolist() == [2, 0, 1]
    place = BatchConfig(batch_size=2, num_threads=1, mesh=data_mesh(1))
    assert seen(images, place).labels(images).tolist() == [2, 0, 1]


def test_first_labels_are_of_a_few_images_and_pass_what_cannot_be_read():
    read = []

    class Large:
        def __len__(self):
            return 10_000

        def __getitem__(self, row):
            read.append(row)
            if row == 0:
                raise UnreadableImageError("row 0", "torn")
            return {"image": IMAGE, "label": row % 10}

    labels = first_labels(Images(source=Large(), crop=CenterCrop(8)))
    assert len(labels) == len(read) - 1 < 256
    assert read[0] == 0
    assert read[-1] > 9_900
