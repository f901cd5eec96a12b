"""Checkpoints of a run: atomic, asynchronous, addressed by name (Orbax)."""

from pathlib import Path

import equinox as eqx
import jax
from jaxtyping import PyTree
import orbax.checkpoint as ocp

from vtp_eqx.training.state import TrainState


class Checkpoints:
    """The last `keep` states of a run, in a folder. Use as a context manager."""

    def __init__(self, folder: Path, *, keep: int = 2):
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, state: TrainState) -> None:
        """Starts writing `state`; it is copied before this returns."""
        arrays = _named(eqx.filter(state, eqx.is_array))
        self._manager.save(int(state.step), args=ocp.args.StandardSave(arrays))

    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, or `None`."""
        return self._manager.latest_step()

    def restore(self, template: TrainState) -> TrainState:
        """The newest state, placed as `template` is, bit for bit as it was saved.

        Raises `FileNotFoundError` where there is none.
        """
        step = self.latest_step()
        if step is None:
            raise FileNotFoundError(
                "Resuming needs a checkpoint; got an empty folder "
                f"{self._manager.directory}: start the run from its beginning."
            )
        arrays, static = eqx.partition(template, eqx.is_array)
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, _named(arrays))
        restored = self._manager.restore(step, args=ocp.args.StandardRestore(wanted))
        # Named leaves come back in the order of their names; put each in its place.
        leaves = [restored[name] for name in _names(arrays)]
        return eqx.combine(
            jax.tree.unflatten(jax.tree.structure(arrays), leaves), static
        )


def _names(arrays: PyTree) -> list[str]:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(arrays)]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]


def _named(arrays: PyTree) -> dict[str, jax.Array]:
    """The arrays of a tree under their paths: independent of the order of fields."""
    return dict(zip(_names(arrays), jax.tree.leaves(arrays), strict=True))
