import dataclasses
import json

import pytest

from vtp_eqx.config import (
    as_json,
    PretrainConfig,
    PrototypeConfig,
    published,
    ReconstructionConfig,
    VIT_FEMTO,
)
from vtp_eqx.runs.pretrain_options import FIXED, PretrainOptions
from vtp_eqx.runs.run_dir import check_config_unchanged


CONFIG = PretrainConfig(tokenizer=published(VIT_FEMTO), prototypes=PrototypeConfig())
SILENT = dataclasses.replace(CONFIG, contrast_weight=0.0)


def begun(path, **changes):
    """What is said of a run that was begun as `path` tells, with `changes` now."""
    options = dataclasses.replace(PretrainOptions(config=CONFIG), **changes)
    check_config_unchanged(path.parent, options.config, options, FIXED)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "config.json"
    begun(path, window=3)  # nothing was begun
    path.write_text(as_json(PretrainOptions(config=CONFIG)))
    return path


def test_a_folder_of_another_run_is_refused_by_the_names_of_what_differs(path):
    begun(path, log_every=7, workers=1)
    optimizer = dataclasses.replace(CONFIG.optimizer, b1=0.5)
    other = dataclasses.replace(CONFIG, seed=5, optimizer=optimizer, prototypes=None,
                                distillation_weight=0.0)  # fmt: skip
    with pytest.raises(
        ValueError,
        match=r"^`config.prototypes` \(None, was PrototypeConfig\(.*\.\.\.\), "
        r"`config.optimizer.b1` \(0.5, was 0.9\), "
        r"`config.distillation_weight` \(0.0, was 1.0\), "
        r"`config.seed` \(5, was 0\), `window` \(3, was 16\) may not differ from",
    ):
        begun(path, config=other, window=3)


@pytest.mark.parametrize(
    "changes", [dict(accumulate=4), dict(sharding="fsdp"), dict(precision="bfloat16")]
)
def test_a_run_is_continued_on_other_devices(path, changes):
    begun(path, config=dataclasses.replace(CONFIG, **changes))


def test_a_run_of_an_older_version_is_continued(path):
    fields = json.loads(path.read_text())
    for name in ("keep_best", "group", "processes"):
        del fields[name]
    for name in ("accumulate", "weighting"):
        del fields["config"][name]
    path.write_text(json.dumps(fields))
    begun(path)
    with pytest.raises(ValueError, match=r"`config.weighting` .*, `group` \(4, was"):
        begun(path, config=dataclasses.replace(CONFIG, weighting="learned"), group=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(validation="a"), "`validation` needs `data`"),
        (dict(split="train"), "`split` needs `data`"),
        (dict(weights=(1.0,)), "`weights` needs `data`"),
        (dict(classes="a.txt"), "`classes` needs `data`"),
        (
            dict(data=("a",), validation_split="b"),
            "`validation_split` needs `validation`",
        ),
        (dict(data=("a",), templates="b"), "`templates` needs `classes`"),
        (dict(config=SILENT, data=("a",), classes="b"), "`classes` makes prompts"),
        (dict(config=SILENT, templates="b"), "`templates` makes prompts .* got .* 0.0"),
        (dict(data=("a", "b"), weights=(1.0,)), "each source .* got 1 for 2"),
        (dict(log_every=0), r"^`log_every` \(0\) must be 1 or more"),
        (dict(save_every=0), r"^`save_every` \(0\) must be 1 or more"),
        (dict(evaluate_every=0), r"^`evaluate_every` \(0\) must be 1 or more"),
        (dict(num_eval=0), r"^`num_eval` \(0\) must be 1 or more"),
        (dict(workers=0), r"^`workers` \(0\) must be 1 or more"),
        (dict(keep=0), r"^`keep` \(0\) must be 1 or more"),
        (dict(stall_seconds=0.0), r"^`stall_seconds` \(0.0\) must be positive"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PretrainOptions(**dict(config=CONFIG) | changes)


def test_options_that_go_together_are_taken():
    PretrainOptions(
        config=CONFIG, data=("a", "b"), weights=(1.0, 9.0), validation="c",
        validation_split="d", classes="e", templates="f",
    )  # fmt: skip
    PretrainOptions(config=CONFIG, templates="f")  # of the scenes' classes


LOOKING = dataclasses.replace(
    CONFIG, reconstruction=ReconstructionConfig(perceptual_weight=1.0)
)


@pytest.mark.parametrize(
    ("config", "files"),
    [(CONFIG, ("vgg16.pth", "vgg.pth")), (LOOKING, ("vgg16.pth",))],
)
def test_files_of_lpips_that_would_not_be_read_are_refused(config, files):
    with pytest.raises(ValueError, match="`perceptual` are two files"):
        PretrainOptions(config=config, perceptual=files)
