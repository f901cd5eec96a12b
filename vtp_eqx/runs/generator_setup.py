"""Opening a generator's training: its options, latents, tokenizer and folder.

And how it is evaluated meanwhile: the gFID of a few thousand samples.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
from pathlib import Path

from jax.sharding import Mesh
import numpy as np

from vtp_eqx.config import (
    GenerateConfig,
    Precision,
    require,
    require_fields,
    SampleConfig,
)
from vtp_eqx.data.latents import LatentCache
from vtp_eqx.data.mixture import source_fingerprint
from vtp_eqx.evaluation.batches import in_batches
from vtp_eqx.evaluation.extract import FeatureTable
from vtp_eqx.evaluation.latent_statistics import measure_latents
from vtp_eqx.evaluation.networks import (
    feature_network,
    FeatureNetwork,
    network_outputs,
    NetworkName,
)
from vtp_eqx.evaluation.reference import read_reference, Reference
from vtp_eqx.evaluation.samples import check_comparable, generation_numbers
from vtp_eqx.mesh import data_mesh, local_mesh
from vtp_eqx.models.arrays import latents_hash, text_hash
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import Generator
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.batches import check_batch_size, open_sources
from vtp_eqx.runs.captions import (
    find_words,
    fit_to_text,
    open_captions,
    text_config_of,
    TextTokenizer,
)
from vtp_eqx.runs.extract_latents import open_latents
from vtp_eqx.runs.generator_batches import CachedBatches, EncodedBatches, fit_to_latents
from vtp_eqx.runs.multihost import is_main_process, raise_on_all
from vtp_eqx.runs.run_dir import (
    check_config_unchanged,
    check_data_unchanged,
    lock_folder,
    write_config,
)
from vtp_eqx.runs.run_options import RunOptions
from vtp_eqx.runs.sample import choose_labels, draw_images
from vtp_eqx.runs.throughput import throttled_print
from vtp_eqx.runs.vision import LoadTokenizer
from vtp_eqx.training.optimizer import learning_rate


BESIDE = "tokenizer"  # the tokenizer's folder beside its latents


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorOptions(RunOptions):
    """Options of a generator's training: latents, config, folder."""

    config: GenerateConfig
    """Latent shape and classes are those of the latents, which need captions where
    `dit.condition` is text."""
    latents: str = ""
    """A folder of latents: of extract_latents.py, or of LightningDiT's extractor."""
    tokenizer: str = ""
    """What made the latents; by default the one beside them."""
    data: tuple[str, ...] = ()
    """In place of latents: images, encoded in every step by `tokenizer`."""
    encoder_precision: Precision = "float32"
    """What images are encoded in, without latents on disk (LightningDiT: float32)."""
    unconditional: bool = False
    """Every image is of one class."""
    out: str = "runs/generator"
    reference: str = ""
    """Statistics of real images, of evaluate.py's `reference`: with them, samples of
    the moving average are measured as it learns."""
    network: NetworkName = "scene-network"
    """What made the reference."""
    weights: str = ""
    """The published file of that network; the scene network has its own."""
    eval_samples: int = 5000
    """How many samples are measured; fewer than 50,000 have a larger gFID."""
    evaluate_every: int = 10_000
    keep_best: int = 0
    """Checkpoints kept beside the last: of the lowest gFID, or loss without it."""
    workers: int = 4
    """Threads that read latents, or read and decode images."""

    def __post_init__(self):
        super().__post_init__()
        require_fields(self, "1 or more", "eval_samples")
        require(
            not (self.latents and self.data),
            f"`latents` ({self.latents!r}) and `data` ({self.data}) cannot both be "
            "what is learned from: give one of them.",
        )
        require(
            not self.data or bool(self.tokenizer),
            f"`data` ({self.data}) needs `tokenizer`, which encodes the images: give "
            "both, or `latents`.",
        )
        require(
            bool(self.data) or (not self.split and self.encoder_precision == "float32"),
            "`split` and `encoder_precision` are of images that are encoded in every "
            "step, but there is no `data`: give it, or leave them out.",
        )
        is_text = self.config.dit.condition == "text"
        require(
            not (is_text and self.unconditional),
            "`unconditional` (True) leaves nothing to ask for, but `condition` is "
            "'text': leave either out.",
        )
        require(
            not (is_text and self.reference),
            f"`reference` ({self.reference}) measures samples of classes as they are "
            "learned, but `condition` is 'text': leave it out, and measure a folder of "
            "sample.py.",
        )
        require(
            bool(self.reference) or not self.weights,
            f"`weights` ({self.weights}) are of the network that made `reference`, "
            "which is not given: give it, or leave both out.",
        )


# What may not change in a run that is continued, beside its config.
FIXED = ("unconditional", "encoder_precision", "split")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorSetup:
    """Everything a generator's training needs; this process holds its folder."""

    config: GenerateConfig  # fitted to the latents
    batches: CachedBatches | EncodedBatches
    tokenizer: Tokenizer  # with the statistics that the latents are normalized by
    words: TextTokenizer | None  # the vocabulary of captions, where they are read
    mesh: Mesh
    evaluate: Callable[[DiT, int], dict[str, float]] | None  # its gFID, where asked for


@contextlib.contextmanager
def open_generator_training(
    options: GeneratorOptions, load: LoadTokenizer
) -> Iterator[GeneratorSetup]:
    """The setup of a run that may begin, or go on as it was begun.

    `load` is `vtp_eqx.tokenizer.load`. A `ValueError` where the run was begun with
    other settings or latents, where latents are damaged or of another tokenizer, and
    where labels are outside the classes; a `FolderInUseError` where another process
    writes the folder. For a generator of captions also where there are none, or they
    are of another text tower than the tokenizer's.
    """
    require(
        bool(options.latents or options.data),
        "`latents` ('') or `data` () must name what is learned from: give one of them.",
    )
    out, mesh = Path(options.out), data_mesh(options.devices)
    # Before a folder is begun, which would then refuse the right value.
    learning_rate(options.config.optimizer, options.config.num_steps)
    check_batch_size(options.config, mesh)
    with contextlib.ExitStack() as held:
        with raise_on_all():
            if is_main_process():
                held.enter_context(lock_folder(out))
        if options.latents:
            config, batches, tokenizer, data, words = _from_cache(options, load, mesh)
        else:
            config, batches, tokenizer, data, words = _from_images(options, load, mesh)
        if words is not None:
            data += f" and captions as {text_hash(tokenizer)} reads them"
        with raise_on_all():
            evaluate = _evaluation(options, tokenizer, mesh)
            check_config_unchanged(out, config, options, FIXED)
        check_data_unchanged(out, data)
        with raise_on_all():
            if is_main_process():
                write_config(out, config, options, data)
        yield GeneratorSetup(
            config=config, batches=batches, tokenizer=tokenizer, words=words,
            mesh=mesh, evaluate=evaluate,
        )  # fmt: skip


def _evaluation(
    options: GeneratorOptions, tokenizer: Tokenizer, mesh: Mesh
) -> Callable[[DiT, int], dict[str, float]] | None:
    """The callback that measures gFID in training; an error where it cannot work."""
    if not options.reference:
        return None
    weights = Path(options.weights) if options.weights else None
    network = feature_network(options.network, weights)
    reference = read_reference(Path(options.reference))
    check_comparable(network, reference, tokenizer.config.image_size)
    config = SampleConfig(num_samples=options.eval_samples)
    bound_to = latents_hash(tokenizer)

    def evaluate(dit: DiT, step: int) -> dict[str, float]:
        numbers = measure_generation(
            config, Generator(dit, bound_to), tokenizer, reference, network,
            local_mesh(mesh),
        )  # fmt: skip
        distance, *_ = numbers.values()
        return numbers | {"score": -distance}

    return evaluate


def fit_to_cache(
    config: GenerateConfig, cache: LatentCache, *, unconditional: bool
) -> GenerateConfig:
    """`config` for the shape and classes of some latents, whose labels are checked.

    For a generator of captions: for their shape, and whether they have captions.
    """
    if unconditional:
        return fit_to_latents(config, cache.shape, 1)
    if config.dit.condition == "text":
        require(
            cache.captions is not None and bool(cache.captions.any()),
            "`latents` (without captions) must have some for `condition` 'text': "
            "extract them again with --config.captions, from captioned images.",
        )
        return fit_to_latents(config, cache.shape, config.dit.num_classes)
    num_classes = len(cache.class_names) or max(int(cache.labels.max()) + 1, 1)
    fitted = fit_to_latents(config, cache.shape, num_classes)
    cache.check_labels(fitted.dit.num_classes)
    return fitted


def _from_cache(options: GeneratorOptions, load: LoadTokenizer, mesh: Mesh):
    folder = Path(options.latents)
    cache = open_latents(folder)
    config = fit_to_cache(options.config, cache, unconditional=options.unconditional)
    where = options.tokenizer or str(folder / BESIDE)
    require(
        bool(options.tokenizer) or Path(where).exists(),
        f"`tokenizer` ('') must name what the latents in {folder} were made with, "
        f"because there is no {where}: give it.",
    )
    tokenizer = _tokenizer_of(cache, folder, where, load)
    words = None
    if config.dit.condition == "text":
        text = text_config_of(tokenizer, where)
        require(
            text_hash(tokenizer) == cache.text_hash,
            f"`tokenizer` ({where}, text tower {text_hash(tokenizer)}) must be the one "
            f"that the captions in {folder} have ids for ({cache.text_hash}): name "
            "that one, or extract the latents again.",
        )
        config = fit_to_text(config, text)
        words = find_words(text, folder / BESIDE, where)
    batches = CachedBatches(
        cache=cache, batch_size=config.batch_size, seed=config.seed,
        unconditional=options.unconditional, workers=options.workers,
        reader=None if words is None else (tokenizer, mesh),
    )  # fmt: skip
    digest = cache.latents_hash or latents_hash(tokenizer)  # the same where known
    data = f"{len(cache)} images as latents {digest}"
    return config, batches, tokenizer, data, words


def _tokenizer_of(
    cache: LatentCache, folder: Path, where: str, load: LoadTokenizer
) -> Tokenizer:
    """The tokenizer of some latents, or a `ValueError` where it is another one."""
    tokenizer = load(where)
    if not cache.latents_hash:  # LightningDiT's extractor does not say
        require(
            len(cache.mean) == tokenizer.config.latent_width,
            f"`tokenizer` ({where}) has {tokenizer.config.latent_width} channels, and "
            f"the latents in {folder} {len(cache.mean)}: name the one that made them.",
        )
        return tokenizer.with_statistics(cache.mean, cache.std)
    got = latents_hash(tokenizer) if tokenizer.is_measured else "not measured"
    require(
        got == cache.latents_hash,
        f"`tokenizer` ({where}, latents {got}) must be the one that the latents in "
        f"{folder} were made with ({cache.latents_hash}): name that one, or extract "
        "the latents again.",
    )
    return tokenizer


def _from_images(options: GeneratorOptions, load: LoadTokenizer, mesh: Mesh):
    out, tokenizer = Path(options.out), load(options.tokenizer)
    source = open_sources(options.data, options.split)
    words = encode = None
    if options.config.dit.condition == "text":
        words, encode = open_captions(tokenizer, options.tokenizer, source)
    if not tokenizer.is_measured:
        tokenizer, _ = measure_latents(
            tokenizer, source, out, mesh=mesh, num_threads=options.workers,
            progress=throttled_print("latents measured: {} of {}"),
        )  # fmt: skip
    shape = tokenizer.config
    side = shape.image_size // shape.patch_size
    names = getattr(source, "class_names", ())
    num_classes = len(names) or options.config.dit.num_classes
    config = fit_to_latents(
        options.config, (side, side, shape.latent_width),
        1 if options.unconditional else num_classes,
    )  # fmt: skip
    if words is not None:
        config = fit_to_text(config, text_config_of(tokenizer, options.tokenizer))
    batches = EncodedBatches(
        tokenizer, source, config, mesh, folder=out, workers=options.workers,
        precision=options.encoder_precision, unconditional=options.unconditional,
        encode=encode,
    )  # fmt: skip
    data = f"{source_fingerprint(source)} with latents {latents_hash(tokenizer)}"
    return config, batches, tokenizer, data, words


def measure_generation(
    config: SampleConfig,
    generator: Generator,
    tokenizer: Tokenizer,
    reference: Reference,
    network: FeatureNetwork,
    mesh: Mesh,
) -> dict[str, float]:
    """Numbers as `evaluate_samples` gives them, of samples that are kept nowhere.

    For curves of one run: the same noise and classes every time, and so few samples
    that a distance is larger than of 50,000. Compare equal counts.
    """
    labels = choose_labels(config, generator.dit.config.num_classes)
    parts = []
    for _, images in draw_images(config, generator, tokenizer, labels, mesh=mesh):
        parts.append(in_batches(network_outputs, network, images))
    columns = {
        name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }
    return generation_numbers(network, reference, FeatureTable(arrays=columns))
