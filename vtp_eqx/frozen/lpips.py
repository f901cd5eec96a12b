"""LPIPS over VGG16: how different two images look.

Zhang et al. 2018, https://arxiv.org/abs/1801.03924, with the convolutions of
torchvision's VGG16 and the channel weights of the authors' version 0.1.
"""

import itertools
import os

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.frozen.weights import PublishedFile
from vtp_eqx.models.arrays import named_arrays, with_arrays
from vtp_eqx.nn.convolution import Convolution, max_pool
from vtp_eqx.tensor_files.name_table import CONVOLUTION, Layout, NameTable, Tensors


VGG16 = PublishedFile(
    name="vgg16-397923af.pth",
    address="https://download.pytorch.org/models/vgg16-397923af.pth",
    digest="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)
LPIPS = PublishedFile(
    name="vgg.pth",
    address="https://heibox.uni-heidelberg.de/f/607503859c864bc1b30b/?dl=1",
    algorithm="md5",
    digest="d507d7349b931f0638a25a48a722f98a",
)

# Widths of VGG16's convolutions, stage by stage; a pool lies between two stages, and
# the last activation of each stage is compared.
STAGES = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)
MIN_SIDE = 2 ** (len(STAGES) - 1)


class Perceptual(eqx.Module):
    """The LPIPS distance: `perceptual(image, other)`, 0 for equal images.

    `origin` says whose weights it has.
    """

    stages: list[list[Convolution]]
    channel_weights: list[Float[Array, "..."]]  # one vector a stage
    origin: str = eqx.field(static=True)

    def __call__(
        self,
        image: Float[Array, "height width 3"],
        other: Float[Array, "height width 3"],
    ) -> Float[Array, ""]:
        """The distance of two images with values in [0, 1] and sides of 16 or more."""
        require(
            min(image.shape[:2]) >= MIN_SIDE,
            f"LPIPS halves an image {len(STAGES) - 1} times, so its sides are "
            f"{MIN_SIDE} or more; got {image.shape[0]} x {image.shape[1]}: enlarge it.",
        )
        # A number must not depend on the machine: a GPU would take fewer bits.
        with jax.default_matmul_precision("highest"):
            activations = jax.vmap(self._activations)(jnp.stack([image, other]))
        distance = jnp.zeros((), jnp.float32)
        for pair, weight in zip(activations, self.channel_weights, strict=True):
            one, two = pair.astype(jnp.float32)
            difference = _unit(one) - _unit(two)
            distance += jnp.mean(difference**2 @ weight.astype(jnp.float32))
        return distance

    def _activations(
        self, image: Float[Array, "height width 3"]
    ) -> list[Float[Array, "..."]]:
        # In bfloat16 where the weights are: the cost of this network is training's.
        x = ((2 * image - 1 - SHIFT) / SCALE).astype(self.stages[0][0].weight.dtype)
        found = []
        for number, stage in enumerate(self.stages):
            x = max_pool(x, 2, 2) if number else x
            for convolution in stage:
                x = jax.nn.relu(convolution(x))
            found.append(x)
        return found


def perceptual_from_published(
    vgg: Tensors, lpips: Tensors, origin: str = "unchecked"
) -> Perceptual:
    """The network of torchvision's VGG16 state dict and of LPIPS' channel weights.

    VGG16's classifier is not read. A `ValueError` names tensors that are missing,
    unknown or of another shape.
    """
    skeleton = eqx.filter_eval_shape(blank_perceptual, origin)
    leaves, names = named_arrays(skeleton), _convolution_names()
    convolutions = NameTable(
        names, leaves, {f"{name}.weight": CONVOLUTION for name in names}
    )
    channels = {
        f"lin{n}.model.1.weight": f"channel_weights.{n}" for n in range(len(STAGES))
    }
    weights = NameTable(
        channels, leaves, dict.fromkeys(channels, Layout("c", "1 c 1 1"))
    )
    classifier = tuple(
        f"classifier.{layer}.{kind}"
        for layer in (0, 3, 6)
        for kind in ("weight", "bias")
    )
    arrays = convolutions.read(vgg, unused=classifier) | weights.read(lpips)
    return with_arrays(skeleton, arrays)


def blank_perceptual(origin: str = "blank") -> Perceptual:
    """The network with zeros for weights, for what depends on its shapes alone."""
    widths = [3, *(width for stage in STAGES for width in stage)]
    convolutions = iter(
        Convolution(jnp.zeros((3, 3, before, width)), jnp.zeros(width))
        for before, width in itertools.pairwise(widths)
    )
    return Perceptual(
        [[next(convolutions) for _ in stage] for stage in STAGES],
        [jnp.zeros(stage[-1]) for stage in STAGES],
        origin,
    )


def load_perceptual(
    vgg: str | os.PathLike[str], lpips: str | os.PathLike[str], *, check: bool = True
) -> Perceptual:
    """LPIPS from the files of torchvision's VGG16 and of its channel weights.

    A missing file, or with `check` one of another hash than the published, is an error
    (`PublishedFile.read`).
    """
    vgg_tensors, vgg_origin = VGG16.read(vgg, check=check)
    lpips_tensors, lpips_origin = LPIPS.read(lpips, check=check)
    return perceptual_from_published(
        vgg_tensors, lpips_tensors, f"{vgg_origin}, {lpips_origin}"
    )


def _convolution_names() -> dict[str, str]:
    """torchvision's names of VGG16's convolutions, and our paths."""
    names, layer = {}, 0
    for number, stage in enumerate(STAGES):
        for index in range(len(stage)):
            names[f"features.{layer}"] = f"stages.{number}.{index}"
            layer += 2  # the activation is a layer too
        layer += 1  # and so is the pool
    return names


def _unit(x: Float[Array, "*axes channels"]) -> Float[Array, "*axes channels"]:
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    # Bounded before the root, so that the gradient at zero is a number.
    return x / (jnp.sqrt(jnp.maximum(square, 1e-30)) + 1e-10)
