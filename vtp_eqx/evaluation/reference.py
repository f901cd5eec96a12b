"""Statistics of real images as `.npz`: our own, and those that others publish.

The keys that all evaluators read are `mu` and `sigma` (mean and covariance of features)
and `mu_s` and `sigma_s` (of spatial features, for sFID). Our files also hold what they
were computed from; files of others do not, and it has to be given with them. Those of
ADM, which LightningDiT uses too, are known by name and shape, and have 10,000 of the
images themselves (`arr_0`) for precision and recall.
"""

import dataclasses
from pathlib import Path
from typing import Any

from jaxtyping import Float
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.sources import open_source
from vtp_eqx.evaluation.extract import extract_features, ExtractConfig
from vtp_eqx.evaluation.frechet import Moments
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.networks import FeatureNetwork, network_outputs
from vtp_eqx.file_kinds import open_npz, UnreadableNpzError
from vtp_eqx.files import write_npz
from vtp_eqx.models.arrays import arrays_hash


INCEPTION_WIDTH = 2048
# ADM's files: moments over all training images of ImageNet.
ADM_PREFIX, ADM_COUNT = "VIRTUAL_imagenet", 1_281_167
# What our files tell beside statistics, each by one whole number or one text.
_SCALARS = {
    "count": np.integer,
    "image_size": np.integer,
    "network": np.str_,
    "network_hash": np.str_,
    "crop": np.str_,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """Statistics of real images, with which samples are compared.

    `features` are those of the real images themselves, which precision and recall
    take; files of moments alone do not have them.
    """

    moments: Moments
    spatial: Moments | None = None
    features: Float[np.ndarray, "count width"] | None = None
    network: str  # its name, as on a card
    network_hash: str  # of its weights; empty where the file does not tell
    image_size: int | None = None  # side of the images, where the file tells
    crop: str = ""

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that name the statistics."""
        return arrays_hash({"mu": self.moments.mean, "sigma": self.moments.covariance})

    def check_network(self, name: str, digest: str) -> None:
        """Raises `ValueError` where the features to compare are of another network."""
        require(
            name == self.network and self.network_hash in ("", digest),
            "Distances are between features of one network; got a reference in "
            f"{self.network} {self.network_hash[:12]} and samples in {name} "
            f"{digest[:12]}: make the reference again with this network.",
        )


def make_reference(
    images: Images,
    network: FeatureNetwork,
    place: ExtractConfig,
    *,
    keep_features: bool = False,
) -> Reference:
    """The statistics of real images, for `reference.write_reference`.

    `keep_features` keeps those of every image, for precision and recall.
    """
    network.check_size(images.crop.size)
    seen = extract_features(network_outputs, network, images, place, stage="reference")
    return Reference(
        moments=seen.moments("features"),
        spatial=seen.moments("spatial") if seen.has("spatial") else None,
        features=seen.column("features") if keep_features else None,
        network=network.name,
        network_hash=network.hash,
        image_size=images.crop.size,
        crop=repr(images.crop),
    )


def write_reference(path: str | Path, reference: Reference) -> None:
    """Writes statistics that `read_reference` reads, and other evaluators too."""
    arrays: dict[str, Any] = {
        "mu": reference.moments.mean,
        "sigma": reference.moments.covariance,
        "count": reference.moments.count,
        "network": reference.network,
        "network_hash": reference.network_hash,
        "image_size": reference.image_size or 0,
        "crop": reference.crop,
    }
    if reference.spatial is not None:
        arrays["mu_s"] = reference.spatial.mean
        arrays["sigma_s"] = reference.spatial.covariance
    if reference.features is not None:
        arrays["features"] = reference.features
    write_npz(path, **arrays)


def read_reference(
    path: str | Path, *, network: str | None = None, count: int | None = None
) -> Reference:
    """The statistics in a file.

    `network` and `count` (of images) are for files that do not tell them, which is an
    error otherwise; so is saying other ones than the file does.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Reference statistics are an .npz file; found none at {path}: make it "
            "with `evaluate.py reference`, or check the path."
        )
    try:
        with open_npz(path) as content:
            arrays = {name: content[name] for name in content if name != "arr_0"}
    except UnreadableNpzError as error:
        raise ValueError(
            f"Reference statistics are a whole .npz file; got a damaged {path} "
            f"({error}): copy it again."
        ) from error
    require(
        {"mu", "sigma"} <= arrays.keys(),
        f"Reference statistics have `mu` and `sigma`; got {sorted(arrays)} in {path}: "
        "name another file, or make one with `evaluate.py reference`, from the images "
        "in this one where it has some.",
    )
    _check_arrays(path, arrays)
    is_inception = arrays["mu"].size == INCEPTION_WIDTH and "network" not in arrays
    if is_inception and network is None:
        network = "inception-v3"
    if path.name.startswith(ADM_PREFIX) and count is None:
        count = ADM_COUNT
    size = _agreed(path, "count", arrays.get("count"), count)
    require(
        size > 1,
        f"The reference's `count` ({size} in {path}) must be 2 images or more: name "
        "another file.",
    )
    spatial = None
    if {"mu_s", "sigma_s"} <= arrays.keys():
        spatial = Moments.from_statistics(arrays["mu_s"], arrays["sigma_s"], int(size))
    return Reference(
        moments=Moments.from_statistics(arrays["mu"], arrays["sigma"], int(size)),
        spatial=spatial,
        features=arrays.get("features"),
        network=str(_agreed(path, "network", arrays.get("network"), network)),
        network_hash=str(arrays.get("network_hash", "")),
        image_size=int(arrays.get("image_size", 0)) or None,
        crop=str(arrays.get("crop", "")),
    )


def add_image_features(
    reference: Reference,
    path: str | Path,
    network: FeatureNetwork,
    place: ExtractConfig,
) -> Reference:
    """`reference` with the features of the images in its file, where it has some.

    For precision and recall. A `ValueError` where they are no images.
    """
    with open_npz(path) as content:
        if reference.features is not None or "arr_0" not in content:
            return reference
    source = open_source(path)
    images = Images(source=source, crop=CenterCrop(source[0]["image"].shape[0]))
    check = dataclasses.replace(reference, image_size=images.crop.size)
    check.check_network(network.name, network.hash)
    seen = extract_features(
        network_outputs, network, images, place, stage="reference images"
    )
    return dataclasses.replace(check, features=seen.column("features"))


def _check_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """A `ValueError` unless arrays have the types and shapes of statistics."""
    shapes: dict[str, tuple[int, ...]] = {
        name: () for name in _SCALARS.keys() & arrays.keys()
    }
    for mean, covariance in (("mu", "sigma"), ("mu_s", "sigma_s")):
        if {mean, covariance} <= arrays.keys():
            width = arrays[mean].size
            shapes |= {mean: (width,), covariance: (width, width)}
    if "features" in arrays:
        shapes["features"] = (*arrays["features"].shape[:1], arrays["mu"].size)
    for name, shape in shapes.items():
        array, kind = arrays[name], _SCALARS.get(name, np.floating)
        require(
            array.shape == shape and np.issubdtype(array.dtype, kind),
            f"`{name}` ({array.dtype} of shape {array.shape} in {path}) must be of the "
            f"type {kind.__name__} and shape {shape}: name another file, or make one "
            "with `evaluate.py reference`.",
        )


def _agreed(path: Path, name: str, by_file: Any, by_caller: Any) -> Any:
    """The value in the file, or the caller's; an error where neither or both differ."""
    require(
        by_file is not None or by_caller is not None,
        f"Numbers depend on the reference's `{name}`, which {path} does not tell: say "
        f"it (`--reference-{name}`).",
    )
    if by_file is None:
        return by_caller
    value = by_file.item()
    require(
        by_caller in (None, value),
        f"The reference's `{name}` is what its file says; got {value!r} in {path} and "
        f"{by_caller!r} from you: leave it out, or name another file.",
    )
    return value
