import numpy as np

from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.evaluation.card import read
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.knn import neighbor_accuracy, neighbors


def test_an_image_is_its_own_nearest_neighbor(tokenizer, scenes, place):
    images = Images(source=scenes, crop=CenterCrop(32))
    numbers = neighbors(tokenizer, images, images, place, counts=(1, 5))
    assert numbers["1 nearest neighbors"] == 1
    assert numbers["5 nearest neighbors"] < 1
    _, card = read(place.folder / "card_neighbors.json")
    assert card.num_reference == 48


def test_nearer_neighbors_have_the_louder_vote_by_hand(monkeypatch):
    # Cosines 1, 0, 0: exp(1 / 0.07) outweighs two votes of exp(0).
    train = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    labels, query = np.array([0, 1, 1]), np.array([[3.0, 0.0]])
    score = neighbor_accuracy(train, labels, query, np.array([0]), num_neighbors=3)
    assert score == 1.0
    monkeypatch.setattr("vtp_eqx.evaluation.knn.TEMPERATURE", 1e6)
    flat = neighbor_accuracy(train, labels, query, np.array([1]), num_neighbors=3)
    assert flat == 1.0
