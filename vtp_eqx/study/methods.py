"""Methods of pre-training by name: objectives, and controls for what they claim.

All values are ours unless a comment says otherwise.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, Literal

from vtp_eqx.config import ControlsConfig, LatentNorm
from vtp_eqx.training.adapter import AdapterConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How a tokenizer is pre-trained: the weight of each objective, and controls.

    Contrast and self-distillation weigh the same, as in the paper. Pixels weigh as
    much, not a tenth: in trainings as short as these that reconstructs better and is
    generated on no worse (`experiments/bisect_recipe.py`). Alone, their weight does not
    matter to AdamW.
    """

    contrast: float = 0.0
    distillation: float = 0.0
    reconstruction: float = 1.0
    # What contrast and self-distillation read: the latents, or (as in the released
    # models) the encoder's features before the bottleneck.
    heads_input: Literal["latent", "full"] = "latent"
    weighting: Literal["fixed", "learned"] = "fixed"
    smoothness: float = 0.0
    latent_noise: float = 0.0  # in deviations of a channel; after a norm, these are 1
    latent_norm: LatentNorm = "none"
    controls: ControlsConfig = dataclasses.field(default_factory=ControlsConfig)
    narrower: int = 1  # so many times fewer channels
    readout_layers: int = 1  # last blocks whose features the bottleneck reads
    # With the frozen encoder of a CLIP+SSL run of the same size and budget (VA-VAE).
    alignment: float = 0.0
    alignment_cosine: float = 1.0  # of each position; 0: alike in their relations alone
    alignment_weighting: Literal["fixed", "adaptive"] = "fixed"
    flow_distillation: float = 0.0  # of the same network (RecTok)
    flow_target: Literal["frozen", "teacher"] = "frozen"  # or of the EMA teacher
    repulsion: float = 0.0  # of the generator, from a memory bank (Repulsor)
    # The encoder, frozen, in a tokenizer of its own: see `training.adapter`.
    adapter: AdapterConfig | None = None
    # Of the decoder on frozen latents: up to so much, for each image (RAE).
    decoder_noise: float = 0.0
    start: Literal["random", "pca"] = "random"
    trained: bool = True
    rotated: bool = False
    one_scaling_factor: bool = False  # of all channels, for the generator


VTP = Method(contrast=1.0, distillation=1.0)
SEMANTICS = dataclasses.replace(VTP, reconstruction=0.0)
LEARNED = dataclasses.replace(VTP, weighting="learned")
METHODS: Mapping[str, Method] = {
    "AE": Method(),
    "CLIP+AE": Method(contrast=1.0),
    "SSL+AE": Method(distillation=1.0),
    "VTP": VTP,
    "VTP full": dataclasses.replace(VTP, heads_input="full"),
    "VTP learned weights": LEARNED,
    "AE from PCA": Method(start="pca"),
    "VTP from PCA": dataclasses.replace(VTP, start="pca"),
    "VTP 2 blocks": dataclasses.replace(VTP, readout_layers=2),
    # RecTok's distillation along the flow, of the teacher that VTP has anyway.
    "VTP + flow": dataclasses.replace(
        VTP,
        flow_distillation=1.0,
        flow_target="teacher",
        latent_noise=1.0,
        controls=ControlsConfig(noise_law="shifted"),
    ),
    # On the same latents, a generator that Repulsor's memory bank helps. 0.25:
    # Dispersive Loss.
    "AE + Repulsor": Method(repulsion=0.25),
    "VTP + Repulsor": dataclasses.replace(VTP, repulsion=0.25),
    # Controls. Is it the basis, or that latents are robust, smooth or never trained?
    "AE rotated": Method(rotated=True),
    "VTP rotated": dataclasses.replace(VTP, rotated=True),
    "VTP from PCA rotated": dataclasses.replace(VTP, start="pca", rotated=True),
    "VTP learned weights from PCA rotated": dataclasses.replace(
        LEARNED, start="pca", rotated=True
    ),
    "AE noise 0.2": Method(latent_noise=0.2),
    "AE noise 0.5": Method(latent_noise=0.5),
    "AE smooth": Method(smoothness=0.3),
    "PCA": Method(trained=False, start="pca"),
    "PCA rotated": Method(trained=False, start="pca", rotated=True),
    "PCA one factor": Method(trained=False, start="pca", one_scaling_factor=True),
    "AE one factor": Method(one_scaling_factor=True),
    "VTP one factor": dataclasses.replace(VTP, one_scaling_factor=True),
    "VTP from PCA one factor": dataclasses.replace(
        VTP, start="pca", one_scaling_factor=True
    ),
    "random encoder": Method(trained=False),
    # And what does pre-training on pixels add to semantics?
    "CLIP": Method(contrast=1.0, reconstruction=0.0),
    # And if semantics are another network's, which never learned pixels?
    "CLIP+SSL": SEMANTICS,
    "distilled": Method(alignment=1.0),
    # And if its features are the latents? 0.8: RAE.
    **{
        name: dataclasses.replace(SEMANTICS, adapter=adapter, decoder_noise=0.8)
        for name, adapter in {
            "RAE": AdapterConfig(kind="identity"),
            # RAEv2: 7 of the last 13 of 24 blocks.
            "RAE 2 blocks": AdapterConfig(kind="identity", readout_layers=2),
            "FAE": AdapterConfig(kind="linear"),
            # Of the last three blocks the first and the last; laptops have but three.
            "DINO-Tok": AdapterConfig(kind="linear", readout_layers=3, readout="ends"),
        }.items()
    },
    # VA-VAE whole, by its own constants.
    "VA-VAE": Method(
        alignment=0.1,
        alignment_weighting="adaptive",
        controls=ControlsConfig(kl_weight=1e-6),
    ),
    # And RecTok, but for the discriminator, as everywhere here.
    "RecTok": Method(
        flow_distillation=1.0,
        latent_noise=1.0,
        controls=ControlsConfig(
            noise_law="shifted", masked_ratio=(-0.1, 0.7), kl_weight=1e-6
        ),
    ),
}


def _regularized(latent_noise: float = 0.0, **controls: Any) -> Method:
    """Reconstruction with a control, after the guard of the scale."""
    return Method(
        latent_norm="rms",
        latent_noise=latent_noise,
        controls=ControlsConfig(**controls),
    )


def _shuffled(method: Method) -> Method:
    """`method` with captions that say nothing of their images."""
    return dataclasses.replace(method, controls=ControlsConfig(caption_shuffle=0))


DETOK_NOISE, DETOK_MASKS = dict(noise_law="interpolated"), (-0.1, 0.7)
# What else could make latents good to generate on, each after its source (see
# `ControlsConfig`). A free encoder evades noise by inflating its latents: hence a norm.
CONTROLS: Mapping[str, Method] = {
    "AE guarded": _regularized(),
    "VTP guarded": dataclasses.replace(VTP, latent_norm="rms"),
    # DeTok has 3, of latents that are guarded by KL alone; ours 1 after a norm.
    "AE noise DeTok": _regularized(1.0, **DETOK_NOISE),
    "AE noise DeTok 3": _regularized(3.0, **DETOK_NOISE),
    "AE noise RAE": _regularized(0.8, noise_law="uniform"),
    "AE masked": _regularized(masked_ratio=DETOK_MASKS),
    "AE masked, noise": _regularized(1.0, masked_ratio=DETOK_MASKS, **DETOK_NOISE),
    "AE scale 0.1": _regularized(scale_weight=0.1),
    "AE scale 0.25": _regularized(scale_weight=0.25),
    "AE scale 1": _regularized(scale_weight=1.0),
    "AE rotation": _regularized(rotation_weight=0.5),
    "AE scale, rotation": _regularized(scale_weight=0.25, rotation_weight=0.5),
    "AE continuity": _regularized(continuity_weight=0.5),
    "AE correlation": _regularized(correlation_weight=0.1),
    # KL guards the scale itself: no norm, as in LDM.
    **{
        f"AE KL {weight}": Method(controls=ControlsConfig(kl_weight=float(weight)))
        for weight in ("1e-6", "1e-5", "1e-4", "1e-3")
    },
    # The same runs as AE's of so many channels, beside those of more.
    "AE half": Method(narrower=2),
    "AE quarter": Method(narrower=4),
    # Text and its loss, without what it says.
    "CLIP+AE shuffled": _shuffled(METHODS["CLIP+AE"]),
    "VTP shuffled": _shuffled(VTP),
    # VA-VAE's relations between positions, without their directions.
    "distilled relations": Method(alignment=1.0, alignment_cosine=0.0),
}
METHODS = {**METHODS, **CONTROLS}
