"""Checkpoints of a run: atomic, asynchronous, addressed by name (Orbax)."""

from pathlib import Path

import equinox as eqx
import jax
import orbax.checkpoint as ocp

from vtp_eqx.models.arrays import named_arrays
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
        arrays = named_arrays(eqx.filter(state, eqx.is_array))
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
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, named_arrays(arrays))
        restored = self._manager.restore(step, args=ocp.args.StandardRestore(wanted))
        # Named leaves come back in the order of their names; put each in its place.
        leaves = [restored[name] for name in named_arrays(arrays)]
        return eqx.combine(
            jax.tree.unflatten(jax.tree.structure(arrays), leaves), static
        )
