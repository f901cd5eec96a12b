"""What diagnosing latents takes, and what it shows in a terminal."""

import dataclasses
from pathlib import Path

from jaxtyping import Bool
import numpy as np
from rich.table import Table

from vtp_eqx.config import require
from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.skipped import Skipped
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.latent_diagnosis import better, CARD, diagnose, PICTURE
from vtp_eqx.evaluation.latent_panel import Diagnosis
from vtp_eqx.evaluation.networks import FeatureNetwork, scene_features
from vtp_eqx.evaluation.options import console, ReconstructionOptions
from vtp_eqx.file_kinds import open_npz, UnreadableNpzError
from vtp_eqx.frozen.scene_network import shipped, SHIPPED_SIZES
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.scenes.render import object_masks, render, SceneConfig, STUDY_DIFFICULTY


BUILT_IN = Path("built-in scenes")
NUM_IMAGES = 4000  # ours: intervals are narrow, and it takes less than two minutes
SCENES = SceneConfig(difficulty=STUDY_DIFFICULTY, validation_in_groups=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiagnosisOptions(ReconstructionOptions):
    """What the command takes."""

    data: Path = BUILT_IN
    """As elsewhere; by default scenes that are drawn, whose objects are known."""
    limit: int | None = None
    """Diagnose this many images, evenly spread; by default 4,000, or all of fewer."""
    masks: Path | None = None
    """An .npz with the foreground of all images of `data`, in their order: `arr_0`,
    [count, side, side], as they lie in the squares that are cut out of the images."""
    scenes: SceneConfig = SCENES
    """Which scenes are drawn: validation scenes, of the tokenizer's size."""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.data == BUILT_IN or self.scenes == SCENES,
            f"`scenes` ({self.scenes}) are drawn in place of `data` ({self.data}), not "
            "beside them: leave out either.",
        )

    def diagnose(self, tokenizer: Tokenizer) -> None:
        """Diagnoses a tokenizer, with its progress, and shows the panel."""
        size = tokenizer.config.image_size
        images, masks = self.images_and_masks(size)
        with self.place() as place:
            diagnosis = diagnose(
                tokenizer, images, place, network=self.network_for(size),
                perceptual=self.perceptual(), masks=masks,
            )  # fmt: skip
        self.show(diagnosis)

    def images_and_masks(
        self, size: int
    ) -> tuple[Images, Bool[np.ndarray, "count rows columns"] | None]:
        """The images of that side, and the foreground of all of their source."""
        if self.data != BUILT_IN:
            images = self.images(CenterCrop(size))
            limit = self.limit or min(NUM_IMAGES, len(images.source))
            return dataclasses.replace(images, limit=limit), self._read_masks()
        require(
            self.masks is None,
            f"`masks` ({self.masks}) are of the images of `data`, and there are none: "
            "name them (--data), or leave the masks out.",
        )
        config = dataclasses.replace(self.scenes, size=size)
        rows = config.validation_indices[: self.limit or NUM_IMAGES]
        drawn = render(config, rows)
        source = ArraySource({"image": drawn.image, "label": drawn.label})
        return self.images_of(source, CenterCrop(size)), object_masks(config, rows)

    def network_for(self, size: int) -> FeatureNetwork:
        """The feature network, or the scene network that was shipped for that size."""
        is_shipped = self.network == "scene-network" and self.weights is None
        if is_shipped and size in SHIPPED_SIZES:
            return scene_features(shipped(size))
        return self.feature_network

    def _read_masks(self) -> np.ndarray | None:
        if self.masks is None:
            return None
        try:
            with open_npz(self.masks) as content:
                masks = content["arr_0"] if "arr_0" in content else np.zeros(0)
        except UnreadableNpzError as error:
            raise ValueError(
                f"`masks` ({self.masks}) must be a whole .npz ({error}): write it "
                "again."
            ) from error
        require(
            masks.ndim == 3,
            f"`masks` ({self.masks}) must hold `arr_0` of shape [count, side, side]; "
            f"got {masks.shape}: write them so.",
        )
        return masks > 0

    def show(self, diagnosis: Diagnosis) -> None:
        """Prints the panel, what was left out and why, and where the files are."""
        table = Table(title=f"{len(diagnosis.latents):,} images")
        for name in ("number", "value", "95% interval", "N", "better"):
            table.add_column(name, justify="left" if name == "number" else "right")
        for name, estimate in diagnosis.panel.items():
            interval = f"{estimate.low:.4f} .. {estimate.high:.4f}"
            table.add_row(
                name,
                f"{estimate.value:.4f}",
                interval,
                f"{estimate.count:,}",
                better(name),
            )
        console.print(table)
        for note in diagnosis.notes:
            console.print(note)
        omitted = [f"{name} ({why})" for name, why in diagnosis.omitted.items()]
        if omitted:
            skipped = Skipped("numbers were left out", len(omitted), omitted)
            console.print(str(skipped), markup=False)
        console.print(f"Card: {self.out / CARD}\nPicture: {self.out / PICTURE}")
