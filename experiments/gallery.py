"""Reconstructions of several tokenizers side by side, with maps of their errors.

    python experiments/gallery.py --tokenizers AE=runs/ae VTP=runs/vtp --data val
    python experiments/gallery.py --runs runs --methods AE VTP --settings 64
    python experiments/gallery.py --smoke

A row is an image: itself, then of each tokenizer its reconstruction and the error of
each pixel, all on one scale, under its name and PSNR, as in the paper's figure 8.
Tokenizers are whatever `vtp_eqx.tokenizer.load` reads, and of runs of studies those of
`--methods`. `--data` is a folder, tars, an .npz, or a prepared set (`PATH:validation`).
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

import dataclasses
from pathlib import Path

import equinox as eqx
import jax.random as jr
import tyro

from vtp_eqx.config import require
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.evaluation.diagnosis_options import SCENES
from vtp_eqx.evaluation.smoke import TOKENIZER
from vtp_eqx.files import require_local_fields
from vtp_eqx.runs.batches import open_sources
from vtp_eqx.runs.command import exit_with_message
from vtp_eqx.runs.gallery import reconstruct_some, save_gallery
from vtp_eqx.scenes.render import render
from vtp_eqx.study.run_spec import RunPaths, saved_tokenizers
from vtp_eqx.tokenizer import load, Tokenizer
from vtp_eqx.training.pca_start import start_from_pca


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the picture has, and where it goes."""

    tokenizers: tuple[str, ...] = ()
    """Folders, files or names on the hub, ours or published; NAME=FOLDER names one."""
    runs: Path = Path("runs")
    """Where studies keep their runs."""
    methods: tuple[str, ...] = ()
    """Methods of finished runs of studies to show too; of each the lowest seed."""
    settings: tuple[str, ...] = ()
    """Of those methods, these settings; by default all."""
    data: str | None = None
    """The images; by default held-out scenes."""
    num_images: int = 6
    """How many, evenly spread over `data`."""
    out: Path = Path("runs/gallery.png")
    """The picture."""
    smoke: bool = False
    """Only try that everything runs: two small tokenizers, never trained."""

    def loaded(self) -> dict[str, Tokenizer]:
        """The tokenizers by their headings, in order."""
        if self.smoke:
            return {f"{width} channels": components(width) for width in (8, 24)}
        parts = [text.rpartition("=") for text in self.tokenizers]
        places = {name or place: place for name, _, place in parts}
        require(
            len(places) == len(parts),
            f"`tokenizers` {self.tokenizers} must have different names, which stand "
            "above them: change one.",
        )
        places |= saved_tokenizers(RunPaths(self.runs), self.methods, self.settings)
        none = "`tokenizers` and `methods` (none) must name what to compare: give one."
        require(len(places) > 0, none)
        return {name: load(place) for name, place in places.items()}


def components(width: int) -> Tokenizer:
    """A tokenizer of the principal components of patches, so many."""
    config = dataclasses.replace(TOKENIZER, text=None, latent_width=width)
    new = eqx.filter_jit(Tokenizer)(config, key=jr.key(0))
    return start_from_pca(new, scenes(config.image_size, 256).arrays["image"])


def scenes(size: int, count: int) -> ArraySource:
    """Held-out scenes, as hard as those of the studies."""
    config = dataclasses.replace(SCENES, size=size)
    rows = config.validation_indices[: 7 * count : 7]  # shapes come in sixes
    return ArraySource(render(config, rows).arrays())


def main(options: Options) -> None:
    require_local_fields(options)
    tokenizers, count, data = options.loaded(), options.num_images, options.data
    size = max(tokenizer.config.image_size for tokenizer in tokenizers.values())
    source = scenes(size, count) if data is None else open_sources([data])
    show = lambda tokenizer: reconstruct_some(tokenizer, source, count)
    save_gallery({name: show(of) for name, of in tokenizers.items()}, options.out)
    print(f"Picture: {options.out}")


if __name__ == "__main__":
    with exit_with_message(ValueError, OSError, ImportError):
        main(tyro.cli(Options, description=__doc__))
