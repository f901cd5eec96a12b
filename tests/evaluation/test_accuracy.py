import numpy as np
import pytest

from vtp_eqx.evaluation.accuracy import top_accuracy


def test_top_accuracy_by_hand():
    logits = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    labels = np.array([0, 1, 0])
    assert top_accuracy(logits, labels, 1) == pytest.approx(1 / 3)
    assert top_accuracy(logits, labels, 2) == pytest.approx(2 / 3)
    assert top_accuracy(logits, labels, 3) == 1
