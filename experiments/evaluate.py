"""Measures any tokenizer, or any generator's samples, on any images.

    python experiments/evaluate.py rfid --tokenizer DIR --data imagenet/val
    python experiments/evaluate.py zero-shot --tokenizer DIR --data DIR --classes FILE
    python experiments/evaluate.py probe --tokenizer DIR --train imagenet/train \
        --data imagenet/val       # and as well: neighbors
    python experiments/evaluate.py diagnose --tokenizer DIR --data imagenet/val
    python experiments/evaluate.py reference --data DIR --size 256 --file stats.npz
    python experiments/evaluate.py gfid --data samples --reference stats.npz \
        --num-samples 50000       # and side by side: --beside guided
    python experiments/evaluate.py --smoke

`--data` is a folder of images (class folders give labels), WebDataset tars (a folder of
them or a pattern such as `'val/{00000..00049}.tar'`), an `.npz` of images, or with
`--split` a data set of TensorFlow Datasets. Numbers go to `--out` with the card of what
they depend on; run again, a command continues where it was killed. Files that cannot be
read are left out, named and counted; `--num-samples` makes another count an error. A
distance is called FID only in the features of Inception (`--network inception-v3
--weights FILE`); those of the shipped network, which reads images of 32 pixels, give an
rFD-scenes and a gFD-scenes.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

import functools
from pathlib import Path
import sys
import tempfile

import jax.random as jr
import tyro

from vtp_eqx.data.crops import CenterCrop, Resize
from vtp_eqx.evaluation import (
    knn,
    linear_probe,
    options as given,
    reconstruction,
    reference as real,
    zero_shot as classes,
)
from vtp_eqx.evaluation.diagnosis_options import DiagnosisOptions
from vtp_eqx.evaluation.options import Flat
from vtp_eqx.evaluation.probe_sweep import probe_sweep
from vtp_eqx.evaluation.samples import evaluate_sample_sets
from vtp_eqx.evaluation.smoke import TOKENIZER, write_smoke_files
from vtp_eqx.runs.command import exit_with_message
from vtp_eqx.tokenizer import load, save, Tokenizer


def rfid(options: Flat[given.ReconstructionOptions]) -> None:
    """PSNR, SSIM and rFID of a tokenizer's reconstructions (ADM's center crop)."""
    tokenizer = loaded(options)
    images = options.images(CenterCrop(tokenizer.config.image_size))
    protocol = functools.partial(
        reconstruction.reconstruction, tokenizer, images, options.feature_network,
        perceptual=options.perceptual(),
    )  # fmt: skip
    options.run("reconstruction", protocol)


def zero_shot(options: Flat[given.ZeroShotOptions]) -> None:
    """Accuracy of text classes, a name a line."""
    tokenizer = loaded(options)
    prompts = options.prompts(tokenizer.config.text)
    images = options.images(Resize(tokenizer.config.image_size))
    options.show_classes(prompts[1], images)
    protocol = functools.partial(classes.zero_shot, tokenizer, *prompts, images)
    options.run("zero_shot", protocol)


def probe(options: Flat[given.ProbeOptions]) -> None:
    """Linear probe: the published sweep, described by `config`, or that of studies."""
    tokenizer = loaded(options)
    sets = options.train_and_test(tokenizer.config.image_size)
    sweep = functools.partial(probe_sweep, config=options.config)
    fit = sweep if options.fit == "sweep" else linear_probe.probe
    options.run("probe", functools.partial(fit, tokenizer, *sets, reads=options.reads))


def neighbors(
    options: Flat[given.TrainedOptions], counts: tuple[int, ...] = (10, 20, 100, 200)
) -> None:
    """Accuracy of the votes of the nearest training images."""
    tokenizer = loaded(options)
    sets = options.train_and_test(tokenizer.config.image_size)
    protocol = functools.partial(knn.neighbors, tokenizer, *sets, counts=counts)
    options.run("neighbors", protocol)


def diagnose(options: Flat[DiagnosisOptions]) -> None:
    """What of latents was found to predict generation, without a generator."""
    options.diagnose(loaded(options))


def gfid(options: Flat[given.SampleOptions]) -> None:
    """gFID of samples, side by side, and what else reference and network give."""
    sets = options.sets()
    with options.place() as place:
        results = evaluate_sample_sets(sets, options.measures(place), place)
    given.show_sample_sets(sets, results, place)


def reference(options: Flat[given.ReferenceOptions]) -> None:
    """Writes the statistics of real images (ADM's center crop) to an .npz."""
    images = options.images(CenterCrop(options.size))
    with options.place() as place:
        made = real.make_reference(
            images, options.feature_network, place, keep_features=options.keep_features
        )
    real.write_reference(options.file, made)
    count = made.moments.count
    given.console.print(f"{count} images, {options.network}: {options.file}")


def loaded(options: given.TokenizerOptions) -> Tokenizer:
    """The tokenizer, at the precision asked for."""
    return load(options.tokenizer).at_precision(options.precision)


COMMANDS = {
    "rfid": rfid, "reconstruction": rfid, "zero-shot": zero_shot, "probe": probe,
    "neighbors": neighbors, "diagnose": diagnose, "gfid": gfid, "reference": reference,
}  # fmt: skip


def run(arguments: list[str]) -> None:
    """Runs one command."""
    tyro.extras.subcommand_cli_from_dict(COMMANDS, args=arguments, description=__doc__)


def smoke() -> None:
    """Runs every command on a few scenes with an untrained tokenizer."""
    with tempfile.TemporaryDirectory() as scratch:
        save(Tokenizer(TOKENIZER, key=jr.key(0)), Path(scratch) / "tokenizer")
        for arguments in write_smoke_files(Path(scratch)):
            run(arguments)


if __name__ == "__main__":
    with exit_with_message(ValueError, OSError, ImportError):
        smoke() if sys.argv[1:] == ["--smoke"] else run(sys.argv[1:])
