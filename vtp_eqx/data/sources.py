"""Random-access sources of examples on disk, and the same examples in memory.

An example is a flat dict: `image` (uint8 `[H, W, 3]`), and where the data set has them
`caption` (str), `label` (int), `id` (int) and attributes by name.
"""

import hashlib
from pathlib import Path
from typing import Any
import zipfile

import numpy as np

from vtp_eqx.config import require
from vtp_eqx.data.loader import Batch, stacked
from vtp_eqx.files import replacing


class TfdsSource:
    """One split of a data set that TensorFlow Datasets has prepared as ArrayRecord.

    `source[row]` is an example and `len(source)` their number. Rows are in the order
    on disk, which is the order of making only where the data set disables shuffling
    (as the scenes do). Can be pickled, for worker processes.
    """

    def __init__(self, folder: str | Path, split: str):
        """`folder` holds `dataset_info.json`; `split` as in `"train[:50%]"`."""
        import tensorflow_datasets as tfds  # takes seconds: only for who reads a disk

        self.folder = Path(folder)
        self.split = split
        require(
            (self.folder / "dataset_info.json").is_file(),
            "A prepared data set has a dataset_info.json; "
            f"found none in {self.folder}: prepare it, or name its version's folder.",
        )
        # `Any`, because the decorator of this function hides its arguments.
        builder_at: Any = tfds.builder_from_directory
        self._rows = builder_at(self.folder).as_data_source(split)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        example = {name: _as_value(value) for name, value in self._rows[row].items()}
        image = example["image"]
        require(
            image.ndim == 3 and image.shape[2] == 3,
            "Images must have three channels; got shape "
            f"{image.shape} in row {row} of {self.folder}: convert it to RGB.",
        )
        return {"id": row, **example}

    @property
    def fingerprint(self) -> str:
        """Changes whenever the split or anything about the data set does."""
        information = (self.folder / "dataset_info.json").read_bytes()
        digest = hashlib.sha256(information + b"\0" + self.split.encode())
        return digest.hexdigest()[:12]


def load_arrays(source: TfdsSource) -> Batch:
    """All examples of `source`, one array for each field.

    The first call writes them beside the data; later ones read that file. A file that
    does not belong to the data any more, or is damaged, is written anew.
    """
    path = source.folder / f"arrays-{source.fingerprint}.npz"
    try:
        with path.open("rb") as file, np.load(file) as cached:
            return dict(cached)
    except (FileNotFoundError, zipfile.BadZipFile, EOFError, ValueError):
        arrays = stacked([source[row] for row in range(len(source))])
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return arrays


def _as_value(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
