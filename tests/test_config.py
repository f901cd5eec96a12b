import dataclasses
import json

import pytest

from vtp_eqx.config import (
    as_json,
    AugmentConfig,
    ControlsConfig,
    DecodeConfig,
    DECODER_L4,
    decoder_like,
    DistillationConfig,
    DiTConfig,
    from_dict,
    GenerateConfig,
    OptimizerConfig,
    presets,
    PretrainConfig,
    PrototypeConfig,
    published,
    ReconstructionConfig,
    require,
    SamplerConfig,
    short_hash,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
    ViewsConfig,
    VIT_B,
    VIT_FEMTO,
    VTP_B,
)
from vtp_eqx.config.fields import later
from vtp_eqx.data.latents import ShardRecord


# The preset of size B of a former version, whose fields of today are at their defaults.
BEFORE = presets.with_batch(
    dataclasses.replace(
        presets.PRETRAIN_B,
        tokenizer=published(
            dataclasses.replace(VIT_B, qk_norm=True, remat="dots"),
            text=TextConfig(remat="dots"),
            rope="float32",
        ),
        distillation=DistillationConfig(),
        optimizer=OptimizerConfig(
            warmup_steps=5000, freeze_prototypes=1250, spike_factor=10.0
        ),
    ),
    16384,
)
PLAIN = TokenizerConfig(encoder=VIT_FEMTO, decoder=decoder_like(VIT_FEMTO))
CONFIGS = [
    # Every optional part there, and every one left out.
    PretrainConfig(
        tokenizer=published(VIT_FEMTO, logit_bias=-10.0, decoder=DECODER_L4),
        prototypes=PrototypeConfig(num_prototypes=7),
        views=ViewsConfig(global_scale=(0.5, 0.75)),
        optimizer=OptimizerConfig(clip_norm=None),
    ),
    PretrainConfig(tokenizer=PLAIN, contrast_weight=0, distillation_weight=0),
    GenerateConfig(dit=DiTConfig(width=16, depth=1, num_heads=2)),
    SamplerConfig(guided_channels=3),
    VTP_B,
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_config_survives_json(config):
    again = from_dict(type(config), json.loads(as_json(config)))
    assert again == config
    # Equality of dataclasses takes a list for no tuple, but hashing is sure.
    assert hash(again) == hash(config)


def test_missing_fields_keep_their_defaults():
    assert from_dict(OptimizerConfig, {"b1": 0.5}) == OptimizerConfig(b1=0.5)


def test_unknown_fields_are_named():
    fields = json.loads(as_json(PLAIN))
    fields["encoder"]["with"] = 3
    message = r"A TransformerConfig has the fields .* got \['with'\]"
    with pytest.raises(ValueError, match=message):
        from_dict(TokenizerConfig, fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": "16"}, r"^`image_size` \('16'\) of a TokenizerConfig must be"),
        ({"image_size": 16.0}, r"must be of the type int: correct it, or use the"),
        (
            {"pixel_mean": [0.5]},
            r"^`pixel_mean` \(\(0.5,\)\) of a TokenizerConfig must",
        ),
        ({"heads_input": "both"}, r"must be of the type Literal\['full', 'latent'\]"),
        (
            {"encoder": [1]},
            r"^`encoder` \(\(1,\)\) of a TokenizerConfig must be of the",
        ),
        ({"encoder": {}}, r"must have the fields \['depth', 'num_heads', 'width'\]"),
        ({"image_size": 10**400}, r"^`image_size` \(1000.*0000\) must be from 1 to 10"),
        ({"patch_size": 0}, r"^`patch_size` \(0\) must be from 1 to 1000000: correct"),
        ({"logit_scale": float("nan")}, r"^`logit_scale` \(nan\) must be finite, and"),
        ({"pixel_std": [1, 1, float("inf")]}, r"^`pixel_std` \(inf\) must be finite"),
    ],
)
def test_values_that_no_config_has_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        from_dict(TokenizerConfig, json.loads(as_json(PLAIN)) | changes)


def test_each_value_of_a_long_tuple_and_of_a_table_is_looked_at():
    ones = dict(count=1, squared_error=[1.0] * 200)
    assert from_dict(ShardRecord, ones).squared_error == (1.0,) * 200
    for place in range(0, 200, 40):
        changed = [1.0] * place + [[]] + [1.0] * (199 - place)
        with pytest.raises(ValueError, match=r"^`squared_error` .* of a ShardRecord"):
            from_dict(ShardRecord, ones | {"squared_error": changed})
    files = {f"{number}.npy": [number, "a"] for number in range(50)}
    with pytest.raises(ValueError, match=r"^`files` .* of a ShardRecord must be of"):
        from_dict(ShardRecord, ones | {"files": files | {"25.npy": [25, 1]}})


def test_what_is_no_record_is_said():
    with pytest.raises(ValueError, match=r"^A TextConfig has named fields; got \[1\]"):
        from_dict(TextConfig, [1])


def test_equal_configs_have_equal_names_and_others_other_ones():
    changed = dataclasses.replace(CONFIGS[0], seed=1)
    assert short_hash(CONFIGS[0]) == short_hash(dataclasses.replace(CONFIGS[0]))
    assert short_hash(CONFIGS[0]) != short_hash(changed)
    assert len(short_hash(changed)) == 12


def test_a_field_that_came_later_leaves_the_hash_of_what_came_before():
    @dataclasses.dataclass(frozen=True)
    class Before:
        rate: tuple[float, ...] = (0.5, 1.0)

    @dataclasses.dataclass(frozen=True)
    class After(Before):
        precision: str = later("float32")

    assert short_hash(After()) == short_hash(Before())
    assert short_hash(After(precision="bfloat16")) != short_hash(Before())
    nested = dataclasses.make_dataclass("Nested", ["part"])
    assert short_hash(nested(After())) == short_hash(nested(Before()))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (TextConfig(), "2d135ce8a8ac"),
        (TextConfig(vocabulary=400), "0494a00826b2"),
        (VTP_B, "d1f0cbb7a889"),
        (BEFORE, "ded52f51788a"),
    ],
)
def test_names_of_configs_are_those_that_runs_on_disk_have(config, name):
    assert short_hash(config) == name


@pytest.mark.parametrize(
    ("fields", "uses_clip"),
    [
        ({}, True),
        ({"vocabulary": 400}, False),
        ({"vocabulary": 50_000}, False),
        ({"vocabulary": 50_000, "tokenizer": "clip"}, True),
        ({"tokenizer": "learned"}, False),
    ],
)
def test_a_config_of_before_chooses_its_text_tokenizer_by_size(fields, uses_clip):
    assert from_dict(TextConfig, fields).uses_clip == uses_clip
    if "tokenizer" in fields:
        assert short_hash(TextConfig(**fields)) != short_hash(
            TextConfig(**{**fields, "tokenizer": "auto"})
        )


def vit(**changes):
    return TransformerConfig(**{**dict(width=16, depth=1, num_heads=2), **changes})


def tokenizer(**changes):
    return dataclasses.replace(PLAIN, **changes)


def pretrain(**changes):
    parts = dict(tokenizer=published(VIT_FEMTO), prototypes=PrototypeConfig())
    return PretrainConfig(**{**parts, **changes})


def controlled(*, without=(), **controls):
    left_out = {f"{name}_weight": 0.0 for name in without}
    return pretrain(controls=ControlsConfig(**controls), **left_out)


def pixelless(**controls):
    return controlled(without=["reconstruction"], **controls)


def textless(**controls):
    return controlled(without=["contrast"], **controls)


def dit(**changes):
    return DiTConfig(**{**dict(width=16, depth=1, num_heads=2), **changes})


def generate(**changes):
    return GenerateConfig(dit=dit(), **changes)


def decode(**changes):
    return DecodeConfig(decoder=VIT_FEMTO, **changes)


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (vit, dict(num_heads=3), "`width` must be a multiple of `num_heads`; got 16"),
        (vit, dict(num_heads=8), "head width must be a multiple of 4.* got 2"),
        (TextConfig, dict(width=10, num_heads=3), "`width` must .* got 10 and 3"),
        (TextConfig, dict(vocabulary=9, tokenizer="clip"), r"`vocabulary` \(9\) must"),
        (tokenizer, dict(patch_size=7), "`image_size` must .* got 256 and 7"),
        (pretrain, dict(distillation_batch=3000), "`distillation_batch` .* got 3000"),
        (pretrain, dict(reconstruction_batch=0), "`reconstruction_batch` .* got 0"),
        (pretrain, dict(batch_size=1024), "`distillation_batch` .* 4096 and 1024"),
        (pretrain, dict(tokenizer=PLAIN), "Contrast needs a text tower"),
        (pretrain, dict(prototypes=None), "Self-distillation needs a prototype head"),
        (pretrain, dict(contrast="siglip"), "The SigLIP loss needs a bias"),
        (pretrain, dict(accumulate=0), r"^`accumulate` \(0\) must be 1 or more"),
        (pretrain, dict(accumulate=2, latent_noise=0.1), "`accumulate` is 2: set it"),
        (
            controlled,
            dict(masked_ratio=(0.2, 1.0)),
            r"`masked_ratio` \(0.2, 1.0\) must",
        ),
        (controlled, dict(continuity_degrees=(50, 40)), r"`continuity_degrees` \(50"),
        (controlled, dict(kl_log_variance=30.0), r"`kl_log_variance` \(30.0\) must"),
        (controlled, dict(scale_factor=1), r"`scale_factor` \(1\) must be 2"),
        (controlled, dict(correlation_threshold=2.0), r"`correlation_threshold` \(2"),
        (controlled, dict(noise_law="uniform"), "noise_law` .'uniform'. is of noise"),
        (controlled, dict(scale_factor=3, scale_weight=1.0), "the grid of 16 x 16"),
        (pixelless, dict(kl_weight=1e-6), r"Controls \(kl\) act on latents"),
        (pixelless, dict(masked_ratio=(0.0, 0.5)), r"Controls \(masking\) act"),
        (textless, dict(caption_shuffle=3), r"caption_shuffle` \(3\) moves captions"),
        (dit, dict(num_heads=3), "`width` must .* got 16 and 3"),
        (dit, dict(patch_size=3), "`latent_size` must .* got 16 and 3"),
        (dit, dict(num_heads=8), "head width must be a multiple of 4.* got 2"),
        (
            pretrain,
            dict(views=ViewsConfig(local_size=98)),
            r"^`views.local_size` \(98\) must be a multiple .* \(16\): change either",
        ),
    ],
)
def test_a_broken_law_is_told_where_the_config_is_made(make, changes, message):
    make()  # without the changes all is well
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (
            pretrain,
            dict(contrast_weight=-1.0),
            r"^`contrast_weight` \(-1.0\) must be 0",
        ),
        (pretrain, dict(distillation_drop=1.0), r"`distillation_drop` \(1.0\) must be"),
        (controlled, dict(kl_weight=-1e-6), r"^`controls.kl_weight` \(-1e-06\) must"),
        (ReconstructionConfig, dict(l1_weight=-1.0), r"^`l1_weight` \(-1.0\) must"),
        (
            OptimizerConfig,
            dict(clip_norm=0.0),
            r"^`clip_norm` \(0.0\) must be positive",
        ),
        (OptimizerConfig, dict(b2=1.0), r"^`b2` \(1.0\) must be in \[0, 1\)"),
        (ViewsConfig, dict(flip_rate=50.0), r"^`flip_rate` \(50.0\) must be in \[0, 1"),
        (
            ViewsConfig,
            dict(local_scale=(0.3, 0.1)),
            r"^`local_scale` \(0.3, 0.1\) must",
        ),
        (DistillationConfig, dict(teacher_temperature=(0.0, 0.1)), "be positive: ch"),
        (AugmentConfig, dict(rate=2.0), r"^`rate` \(2.0\) must be in \[0, 1\]: change"),
        (dit, dict(label_drop_rate=1.5), r"^`label_drop_rate` \(1.5\) must be in"),
        (
            generate,
            dict(ema_decay=99.99),
            r"^`ema_decay` \(99.99\) must be in \[0, 1\]",
        ),
        (generate, dict(accumulate=0), r"^`accumulate` \(0\) must be 1 or more"),
        (decode, dict(accumulate=0), r"^`accumulate` \(0\) must be 1 or more"),
        (decode, dict(latent_noise=float("nan")), r"^`latent_noise` \(nan\) must be 0"),
    ],
)
def test_numbers_that_would_be_ignored_or_do_nothing_are_refused(
    make, changes, message
):
    make()
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        dict(contrast_weight=0, tokenizer=PLAIN),
        dict(contrast_weight=0, contrast="siglip"),
        dict(distillation_weight=0, prototypes=None, distillation_batch=3),
        dict(reconstruction_weight=0, reconstruction_batch=3),
    ],
)
def test_terms_without_weight_need_nothing(changes):
    pretrain(**changes)


def test_a_norm_of_latents_lets_noise_be_in_microbatches():
    guarded = dataclasses.replace(published(VIT_FEMTO), latent_norm="rms")
    config = pretrain(accumulate=2, latent_noise=1.0, tokenizer=guarded)
    assert config.term_weights.keys() == {"contrast", "distillation", "reconstruction"}


@pytest.mark.parametrize(("heads_input", "width"), [("full", 48), ("latent", 64)])
def test_heads_are_as_wide_as_what_they_read(heads_input, width):
    assert tokenizer(heads_input=heads_input).head_width == width


def test_an_error_is_one_line_of_what_a_screen_shows_whatever_it_quotes():
    with pytest.raises(ValueError, match=r"^`name` \(a\\n\\u202eb\) must be short\.$"):
        require(False, "`name` (a\n\u202eb) must be short.")
    with pytest.raises(
        ValueError, match=r"^`name` \(xxx.* \.\.\. x.*: rename it\.$"
    ) as e:
        require(False, f"`name` ({'x' * 9999}) is long: rename it.")
    assert len(str(e.value)) < 1300
