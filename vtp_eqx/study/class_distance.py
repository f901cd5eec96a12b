"""FD-classes: a Fréchet distance in features of a network that learned the class alone.

FID is taken in features of Inception, which was trained to tell the classes that
generators are asked for, and nothing else. FD-scenes is not: its network was trained on
every attribute. This distance is, so that both can be read beside one another.
"""

import dataclasses
from pathlib import Path

from jaxtyping import UInt8
import numpy as np

from vtp_eqx.evaluation.batches import in_batches
from vtp_eqx.evaluation.extract import extract_features, ExtractConfig
from vtp_eqx.evaluation.frechet import frechet_distance, Moments
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.networks import (
    FeatureNetwork,
    network_outputs,
    scene_features,
)
from vtp_eqx.study.dataset import DataKind, Dataset
from vtp_eqx.study.generation import BATCH


NAME = "FD-classes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassDistance:
    """The network, the moments of the validation images in it, and the floor.

    The floor is the distance of as many training images as there are samples, one of
    each group, as with other distances.
    """

    network: FeatureNetwork
    real: Moments
    floor: float

    @classmethod
    def of(
        cls, kind: DataKind, data: Dataset, num_samples: int, folder: Path
    ) -> "ClassDistance | None":
        """That of a data set; features are kept in its `folder`, for all runs on it.

        `None` where data of this `kind` have no such network.
        """
        if kind.class_network is None:
            return None
        network = scene_features(kind.class_network)
        place = ExtractConfig(folder=folder, batch_size=BATCH, mesh=None)
        others, real = (
            extract_features(network_outputs, network, Images.of(images), place)
            .moments("features")
            for images in (
                data.train.image[: num_samples * kind.group : kind.group],
                data.validation.image,
            )
        )  # fmt: skip
        return cls(network=network, real=real, floor=frechet_distance(others, real))

    def to(self, images: UInt8[np.ndarray, "count size size 3"]) -> float:
        """The distance of samples to the validation images."""
        outputs = in_batches(network_outputs, self.network, images, batch_size=BATCH)
        return frechet_distance(Moments.of(outputs["features"]), self.real)
