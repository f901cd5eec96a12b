"""Published checkpoints and our arrays, by one table of names and layouts.

A table says for each published tensor which arrays of ours it holds and how its axes
lie. It reads and writes, so that the two directions cannot disagree.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from einops import rearrange
import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped
import numpy as np

from vtp_eqx.tensor_files.safetensors_files import as_float32, check_arrays, check_depth


Tensors = dict[str, Shaped[np.ndarray, "..."]]
# Published name to the path of our array, or of a module with `weight` and `bias`;
# several paths are the parts of one published tensor, along its first axis.
Names = Mapping[str, str | tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The axes of our array and of the published tensor, in the notation of einops.

    `sizes` has the axes that neither shape tells.
    """

    ours: str
    published: str
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)


SAME_LAYOUT = Layout("...", "...")
CONVOLUTION = Layout("h w i o", "o i h w")

# Blocks of vision transformers as timm names them, which published code follows. A
# model's leaves tell which of these it has, and its config which feed-forward layer.
TIMM_BLOCK: Names = {
    "norm1": "attention_norm",
    "attn.qkv": "attention.to_qkv",
    "attn.q_norm": "attention.query_norm",
    "attn.k_norm": "attention.key_norm",
    "attn.proj": "attention.to_out",
    "ls1.gamma": "attention_scale",
    "norm2": "feed_forward_norm",
    "ls2.gamma": "feed_forward_scale",
}
TIMM_MLP: Names = {"mlp.fc1": "feed_forward.up", "mlp.fc2": "feed_forward.out"}
TIMM_SWIGLU: Names = {
    "mlp.w12": ("feed_forward.gate", "feed_forward.up"),
    "mlp.w3": "feed_forward.out",
}


def patch_layout(patch_size: int, channels: int) -> Layout:
    """A matrix that reads patches, published as a convolution.

    Inside a patch we have the channel fastest, published code slowest.
    """
    sizes = {"p": patch_size, "q": patch_size, "c": channels}
    return Layout("out (p q c)", "out c p q", sizes)


def in_blocks(name: str, path: str, names: Names) -> Names:
    """The `names` of one block as those of all, which we have along a first axis."""
    paths = {theirs: _as_tuple(ours) for theirs, ours in names.items()}
    return {
        f"{name}.{{}}.{theirs}": tuple(f"{path}.{one}" for one in ours)
        for theirs, ours in paths.items()
    }


class NameTable:
    """Published tensors of a model, and the arrays of ours that they hold.

    `leaves` are our arrays, or their shapes, by path. A name whose path leads to none
    of them (a norm that the model lacks, the bias of an RMSNorm) is left out; "{}" in a
    name stands for the number of a block. `layouts` are by published name.
    """

    def __init__(
        self,
        names: Names,
        leaves: Mapping[str, Any],
        layouts: Mapping[str, Layout] | None = None,
    ):
        self._shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
        self._layouts = layouts or {}
        self._paths: dict[str, tuple[str, ...]] = {}
        for name, ours in names.items():
            for kind in ("", ".weight", ".bias"):
                paths = tuple(f"{path}{kind}" for path in _as_tuple(ours))
                if paths[0] in leaves:
                    self._paths[name + kind] = paths

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shape of every published tensor."""
        expected = {}
        for name, paths in self._paths.items():
            shapes = [self._shapes[path] for path in paths]
            if _parts_axis(name):  # blocks are alike
                shapes = [(1, *shape[1:]) for shape in shapes]
            parts = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
            tensor, *_ = jax.eval_shape(functools.partial(self._write, name), parts)
            expected |= dict.fromkeys(self._blocks(name), tensor)
        return expected

    def read(
        self,
        tensors: Mapping[str, Shaped[np.ndarray, "..."]],
        *,
        constants: Mapping[str, Any] | None = None,
        unused: tuple[str, ...] = (),
    ) -> Tensors:
        """Our arrays in float32 by path, out of published tensors.

        Beside those of the table there must be `constants`, whose shapes alone are
        compared, and there may be names that end in one of `unused`. A `ValueError`
        names tensors that are missing, unknown, of another shape or no floats.
        """
        check_depth(max(map(self._depth, self._paths)), tensors)
        expected = {**self.shapes(), **(constants or {})}
        chosen = {
            name: np.asarray(tensor)
            for name, tensor in tensors.items()
            if name in expected or not name.endswith(unused)
        }
        check_arrays(chosen, expected)
        arrays = {}
        for name, paths in self._paths.items():
            layout = self._layouts.get(name, SAME_LAYOUT)
            to_ours = f"{layout.published} -> {layout.ours}"
            blocks = [
                rearrange(as_float32(chosen[block], block), to_ours, **layout.sizes)
                for block in self._blocks(name)
            ]
            axis = _parts_axis(name)
            array = np.stack(blocks) if axis else blocks[0]
            ends = np.cumsum([self._shapes[path][axis] for path in paths[:-1]])
            parts = np.split(array, ends, axis) if len(ends) else [array]
            arrays |= dict(zip(paths, parts, strict=True))
        return arrays

    def write(self, arrays: Mapping[str, Any]) -> Tensors:
        """The published tensors, out of our arrays by path."""
        tensors = {}
        for name, paths in self._paths.items():
            blocks = self._write(name, [jnp.asarray(arrays[path]) for path in paths])
            tensors |= dict(
                zip(self._blocks(name), map(np.asarray, blocks), strict=True)
            )
        return tensors

    def _write(self, name: str, parts: list[Array]) -> list[Array]:
        layout, axis = self._layouts.get(name, SAME_LAYOUT), _parts_axis(name)
        array = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)
        to_published = f"{layout.ours} -> {layout.published}"
        return [
            rearrange(block, to_published, **layout.sizes)
            for block in (array if axis else [array])
        ]

    def _blocks(self, name: str) -> list[str]:
        """The published tensors of a name: one, or one for each block."""
        return [name.format(block) for block in range(self._depth(name) or 1)]

    def _depth(self, name: str) -> int:
        return self._shapes[self._paths[name][0]][0] if _parts_axis(name) else 0


def _parts_axis(name: str) -> int:
    """The axis that parts are joined along: the first, or the one after the blocks."""
    return 1 if "{}" in name else 0


def _as_tuple(paths: str | tuple[str, ...]) -> tuple[str, ...]:
    return (paths,) if isinstance(paths, str) else paths
