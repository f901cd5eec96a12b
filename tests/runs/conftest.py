"""The trainings of `tests/training`, to be run in folders."""

from tests.training.conftest import data, pairs, started, tiny


__all__ = ["data", "pairs", "started", "tiny"]
