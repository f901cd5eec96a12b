"""Command-line options of `sample.py`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from vtp_eqx.config import require, SampleConfig
from vtp_eqx.files import require_local_fields
from vtp_eqx.runs.captions import Prompts
from vtp_eqx.runs.sample_files import read_classes


# The protocol of the paper's table 2: 50,000 images, 249 steps of Euler, no guidance.
CONFIG = SampleConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Which networks draw, what, and where to."""

    tokenizer: str = ""
    """A folder or file, ours or published, or a name on the hub; by default the one
    beside the generator."""
    generator: Path
    """A generator trained on that tokenizer's latents: its file, or a folder of it."""
    out: Path = Path("runs/samples")
    """The folder that images go to; its grid goes beside it."""
    weaker: Path | None = None
    """An earlier or smaller generator that guidance leads away from."""
    classes: tuple[int, ...] = ()
    """The classes of the images, again from the first where they end."""
    classes_file: Path | None = None
    """The same from a file, one a line, in place of `classes`."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What is drawn, for a generator of captions; give it again for more."""
    prompts_file: Path | None = None
    """More of them from a file, one a line."""
    images_per_prompt: int = 8
    """Where there are prompts, in place of `num_samples`: image `i` is of prompt `i`,
    again from the first where they end."""
    npz: bool = False
    """Write samples.npz too, as ADM's evaluator reads it."""
    grid: int = 64
    """The first so many images become one picture; 0 makes none."""
    devices: int | None = None
    """How many to use; by default all."""
    distributed: bool = False
    """One of several processes, as the cluster's environment says."""
    config: SampleConfig = CONFIG

    def __post_init__(self):
        require_local_fields(self)
        has_prompts = bool(self.prompt or self.prompts_file)
        require(
            not (has_prompts and (self.classes or self.classes_file)),
            f"`prompt` ({self.prompt}) and `classes` ({self.classes}) cannot both be "
            "what is drawn: give one of them.",
        )
        require(
            self.images_per_prompt > 0,
            f"`images_per_prompt` ({self.images_per_prompt}) must be positive: raise "
            "it.",
        )
        require(
            not has_prompts or self.config.num_samples == CONFIG.num_samples,
            f"`num_samples` ({self.config.num_samples}) is of classes, but there are "
            "prompts: give `images_per_prompt` in its place.",
        )

    @property
    def where(self) -> str:
        """The tokenizer's place."""
        folder = self.generator.parent if self.generator.is_file() else self.generator
        return self.tokenizer or str(folder / "tokenizer")

    def choices(
        self, prompts: Prompts | None
    ) -> tuple[SampleConfig, np.ndarray | None]:
        """The config, and the classes or numbers of prompts where they are given."""
        config, given = self.config, None
        if self.weaker is not None:
            sampler = dataclasses.replace(config.sampler, guide="generator")
            config = dataclasses.replace(config, sampler=sampler)
        if prompts is not None:
            given = np.arange(len(prompts.texts))
            count = self.images_per_prompt * len(given)
            config = dataclasses.replace(config, num_samples=count)
        elif self.classes or self.classes_file:
            named = self.classes_file and read_classes(self.classes_file)
            given = np.array(self.classes, np.int64) if named is None else named
        if given is not None:
            config = dataclasses.replace(config, labels="given")
        return config, given
