"""Every value a run depends on, as frozen dataclasses; sizes are named constants.

The comment after a field says where its default comes from: *paper* (VTP,
arXiv 2512.13687v2), *code* (the published inference code and checkpoints), *DINOv2*,
*OpenCLIP* or *LightningDiT* (the recipes the paper says it follows), or *ours*.
Lengths of sequences are in tokens, sizes of images in pixels.
"""

from vtp_eqx.config.adversarial import (
    AdversarialConfig as AdversarialConfig,
    AugmentConfig as AugmentConfig,
    DiscriminatorConfig as DiscriminatorConfig,
    DiscriminatorNorm as DiscriminatorNorm,
    FinetuneConfig as FinetuneConfig,
)
from vtp_eqx.config.alignment import (
    AlignmentConfig as AlignmentConfig,
    FlowDistillationConfig as FlowDistillationConfig,
)
from vtp_eqx.config.checks import (
    first_sentence as first_sentence,
    printable as printable,
    require as require,
    require_fields as require_fields,
)
from vtp_eqx.config.controls import (
    ControlsConfig as ControlsConfig,
    NoiseLaw as NoiseLaw,
)
from vtp_eqx.config.generation import (
    fit_dit as fit_dit,
    GenerateConfig as GenerateConfig,
    LatentsConfig as LatentsConfig,
    RepulsionConfig as RepulsionConfig,
    SampleConfig as SampleConfig,
    SamplerConfig as SamplerConfig,
)
from vtp_eqx.config.runs import (
    DecodeConfig as DecodeConfig,
    DistillationConfig as DistillationConfig,
    OptimizerConfig as OptimizerConfig,
    PretrainConfig as PretrainConfig,
    ReconstructionConfig as ReconstructionConfig,
    ViewsConfig as ViewsConfig,
)
from vtp_eqx.config.serial import (
    as_json as as_json,
    changed_fields as changed_fields,
    from_dict as from_dict,
    short_hash as short_hash,
)
from vtp_eqx.config.shapes import (
    Attention as Attention,
    CLIP_VOCABULARY as CLIP_VOCABULARY,
    DECODER_L4 as DECODER_L4,
    decoder_like as decoder_like,
    DIT_1B as DIT_1B,
    DIT_B as DIT_B,
    DIT_S as DIT_S,
    DIT_XL as DIT_XL,
    DiTConfig as DiTConfig,
    FeedForward as FeedForward,
    IMAGENET_MEAN as IMAGENET_MEAN,
    IMAGENET_STD as IMAGENET_STD,
    Init as Init,
    LARGEST_SIZE as LARGEST_SIZE,
    LatentNorm as LatentNorm,
    Norm as Norm,
    Precision as Precision,
    PrototypeConfig as PrototypeConfig,
    published as published,
    Readout as Readout,
    Remat as Remat,
    Residual as Residual,
    Sharding as Sharding,
    TextConfig as TextConfig,
    TokenizerConfig as TokenizerConfig,
    TransformerConfig as TransformerConfig,
    VIT_B as VIT_B,
    VIT_FEMTO as VIT_FEMTO,
    VIT_L as VIT_L,
    VIT_S as VIT_S,
    VTP_B as VTP_B,
    VTP_L as VTP_L,
    VTP_S as VTP_S,
)
