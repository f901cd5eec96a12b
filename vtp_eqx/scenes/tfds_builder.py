"""The scenes as a TensorFlow Datasets builder, without TensorFlow.

Records are ArrayRecord files in the order of their index, so that groups of four stay
together. Images are PNG: lossless, hence equal to `render`.
"""

import contextlib
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from vtp_eqx.config import as_json, short_hash
from vtp_eqx.scenes.captions import RELATIONS
from vtp_eqx.scenes.render import (
    class_names,
    COLORS,
    NAMES,
    render,
    SceneConfig,
    SHAPES,
)


_AT_ONCE = 960  # scenes rendered together: a few megabytes


@dataclasses.dataclass(kw_only=True)
class SceneBuilderConfig(tfds.core.BuilderConfig):
    """Names a data set by the hash of its scenes."""

    scenes: SceneConfig


class SceneBuilder(tfds.core.GeneratorBasedBuilder):
    """`train` and `validation` scenes; see `prepare_scenes`."""

    name = "scenes"
    VERSION = tfds.core.Version("1.0.0")

    @property
    def scenes(self) -> SceneConfig:
        """Which scenes are built."""
        config = self.builder_config
        assert isinstance(config, SceneBuilderConfig)  # made by `prepare_scenes` alone
        return config.scenes

    def _info(self) -> tfds.core.DatasetInfo:
        labels = tfds.features.ClassLabel
        values = {name: labels(names=list(names)) for name, names in NAMES.items()}
        values |= {
            "relation": labels(names=list(RELATIONS)),
            "second_shape": labels(names=list(SHAPES)),
            "second_color": labels(names=list(COLORS)),
        }
        size = self.scenes.size
        return tfds.core.DatasetInfo(
            builder=self,
            description="Procedural captioned scenes of colored shapes.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(size, size, 3), encoding_format="png"
                    ),
                    "caption": tfds.features.Text(),
                    "label": labels(names=list(class_names())),
                    "id": np.int64,
                    **values,
                }
            ),
            metadata=tfds.core.MetadataDict(config=as_json(self.scenes)),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {
            "train": self._generate_examples(self.scenes.train_indices),
            "validation": self._generate_examples(self.scenes.validation_indices),
        }

    def _generate_examples(self, indices: np.ndarray) -> Any:
        for start in range(0, len(indices), _AT_ONCE):
            scenes = render(self.scenes, indices[start : start + _AT_ONCE])
            columns = scenes.arrays()
            for row, index in enumerate(scenes.index.tolist()):
                example = {name: values[row] for name, values in columns.items()}
                example["caption"] = scenes.caption[row]
                # Encoding an array would need TensorFlow, encoding a picture does not.
                example["image"] = Image.fromarray(scenes.image[row])
                yield index, example


def prepare_scenes(config: SceneConfig, folder: str | Path) -> Path:
    """Writes the scenes below `folder`, unless they are there, and returns where.

    The place depends on `config`, so that other scenes never mix with these. A run that
    was interrupted leaves nothing that a later one would take for complete.
    """
    builder = SceneBuilder(
        data_dir=folder,
        config=SceneBuilderConfig(name=short_hash(config), scenes=config),
        file_format="array_record",
    )
    # Its bars and its talk of downloads would bury what the caller has to say.
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    return Path(builder.data_dir)
