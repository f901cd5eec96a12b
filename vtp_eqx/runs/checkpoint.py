"""Checkpoints of a run: atomic, asynchronous, addressed by name (Orbax)."""

from collections.abc import Callable, Mapping
import math
from pathlib import Path
import shutil
from typing import Any

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Shaped, UInt, UInt32
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from vtp_eqx.models.arrays import named_arrays
from vtp_eqx.runs.log import warn
from vtp_eqx.runs.multihost import all_max, is_main_process, raise_on_all
from vtp_eqx.training.state import TrainState


_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


class Checkpoints:
    """The last `keep` states of a run and the best `keep_best`, in a folder.

    Use as a context manager. Beside each state are the sums of its bits, so that a
    state that is damaged on disk is recognized and not continued from.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int = 2,
        keep_best: int = 0,
        say: Callable[[str], None] = warn,
    ):
        """`say` is given a sentence for each damaged checkpoint that is set aside.

        Raises `ValueError` where Orbax cannot read what it wrote beside the states.
        """
        policies: list[Any] = [LatestN(keep)]
        score: Callable[[Any], float] | None = None
        if keep_best > 0:
            score = lambda metrics: metrics["score"]
            # `reverse=False` keeps the largest. The latest are kept whatever their
            # score: a run continues from the last state, not from the best.
            policies.append(BestN(n=keep_best, get_metric_fn=score, reverse=False))
        self._say, self._scored = say, keep_best > 0
        try:
            self._manager = ocp.CheckpointManager(
                folder.absolute(),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=AnyPreservationPolicy(policies),
                    best_fn=score,
                    create=True,
                ),
                # Named here, or a reopened folder could not say what is in it.
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    "sums": ocp.JsonCheckpointHandler(),
                },
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"`folder` ({folder}) must have checkpoints whose files "
                f"`_CHECKPOINT_METADATA` are sound; one is damaged ({error}): delete "
                "that file, which the state beside it does not need."
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._manager.wait_until_finished()
        finally:
            self._manager.close()

    def save(self, state: TrainState, score: float | None = None) -> None:
        """Starts writing `state`; it is copied before this returns.

        The states with the largest `score` are the best. An error of the writing before
        is raised here, or at the end.
        """
        arrays = named_arrays(eqx.filter(state, eqx.is_array))
        sums = {name: int(bits) for name, bits in jax.device_get(_sums(arrays)).items()}
        # A state without a score is the worst; JSON has no infinity.
        finite = score if score is not None and math.isfinite(score) else -1e300
        saved = self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(jax.tree.map(_one_copy, arrays)),
                sums=ocp.args.JsonSave(sums),
            ),
            metrics={"score": finite} if self._scored else None,
        )
        assert saved, "another step than the last one was saved before"

    def wait(self) -> None:
        """Returns when what was saved is on disk, or raises what went wrong."""
        self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """The steps of all whole checkpoints, from the first to the newest."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, or `None`."""
        return self._manager.latest_step()

    def restore(self, template: TrainState) -> TrainState:
        """The newest sound state, bit for bit as it was saved, placed as `template`.

        The leaves of `template` are arrays, or their shapes. Damaged states that are
        newer are reported, and moved to the folder `damaged` beside the checkpoints.

        Raises `FileNotFoundError` where there is none to restore, and `ValueError`
        where they are states of another model; both leave the folder as it is.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            state, reason = self._sound(step, template)
            if state is None:
                damaged[step] = reason
                continue
            for one, reason in damaged.items():
                self._set_aside(one, f"{reason}; going back to step {step}.")
            return state
        reasons = "; ".join(damaged.values())
        found = f"no sound one ({reasons}) in" if damaged else "an empty folder"
        raise FileNotFoundError(
            f"Resuming needs a checkpoint; got {found} {self._manager.directory}: "
            "start the run from its beginning in a new folder."
        )

    def _sound(self, step: int, template: TrainState) -> tuple[TrainState | None, str]:
        """The state of a step, or why it is damaged: in any process, then in all."""
        arrays, static = eqx.partition(template, _is_shaped)
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, named_arrays(arrays))
        try:
            with raise_on_all():
                self._check_same_model(step, wanted)
            with raise_on_all():
                restored, sums = self._read(step, wanted)
            # All have their part of the arrays, and sum them together.
            found = jax.device_get(_sums(restored))
            with raise_on_all():
                _check_sums(found, sums)
        except Exception as error:  # whatever a library says of broken files
            if all_max(isinstance(error, _OtherModelError)):
                raise
            return None, f"{type(error).__name__}: {error}".splitlines()[0][:200]
        # Named leaves come back in the order of their names; put each in its place.
        leaves = [restored[name] for name in named_arrays(arrays)]
        state = jax.tree.unflatten(jax.tree.structure(arrays), leaves)
        return eqx.combine(state, static), ""

    def _read(self, step: int, wanted: dict[str, Any]) -> tuple[Any, dict[str, int]]:
        """The arrays and sums of a step.

        Not by the manager's `restore`, which waits for all processes: one that found
        damage would not come.
        """
        folder = self._manager.directory / str(step)
        state = ocp.StandardCheckpointHandler().restore(
            folder / "state", args=ocp.args.StandardRestore(wanted)
        )
        sums: Any = ocp.JsonCheckpointHandler().restore(folder / "sums")
        return state, sums

    def _check_same_model(self, step: int, wanted: dict[str, Any]) -> None:
        """A damaged file is skipped, another model's is not: it may be of use."""
        found = self._manager.item_metadata(step)["state"]
        if found is None:
            raise ValueError("no list of its arrays")
        found = dict(found)
        # A key is stored as numbers, in a shape of its own.
        keys = {name for name, leaf in wanted.items() if is_key(leaf)}
        shape = lambda name, leaf: "key" if name in keys else tuple(leaf.shape)
        ours, theirs = (
            {(name, shape(name, leaf)) for name, leaf in leaves.items()}
            for leaves in (wanted, found)
        )
        if ours != theirs:
            names = sorted({name for name, _ in ours ^ theirs})
            raise _OtherModelError(
                "A run continues the model it began with; got another in "
                f"{self._manager.directory}, which differs in {names[0]} and "
                f"{len(names) - 1} others: choose another folder, or the old config."
            )

    def _set_aside(self, step: int, reason: str) -> None:
        folder = Path(self._manager.directory)
        self._say(f"Checkpoint {step} in {folder} is damaged: {reason}")
        with raise_on_all():  # none looks again before it is gone
            if is_main_process():
                aside = folder.with_name("damaged")
                aside.mkdir(exist_ok=True)
                shutil.rmtree(aside / str(step), ignore_errors=True)
                (folder / str(step)).rename(aside / str(step))
        self._manager.reload()


def read_newest(
    folder: Path, wanted: Mapping[str, Any]
) -> dict[str, Shaped[Array, "..."]]:
    """Some arrays of the newest checkpoint in a folder of `Checkpoints`, by name.

    `wanted` has their shapes, by their paths in the state. The folder is only read, and
    a run may write it meanwhile: what that deletes gives way to what is newer.

    Raises `FileNotFoundError` where there is no checkpoint yet, and `ValueError` where
    the newest is damaged.
    """
    folder = folder.absolute()  # Orbax takes no other
    steps = lambda: [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    while True:
        newest = max(steps(), default=None)
        if newest is None:
            raise FileNotFoundError(
                f"`folder` ({folder}) must have a checkpoint, and has none yet: wait "
                "until the run has saved one."
            )
        try:
            return _read_some(folder / str(newest), wanted)
        except Exception as error:  # whatever a library says of broken files
            if max(steps(), default=None) == newest:
                raise ValueError(
                    f"`folder` ({folder}) has a damaged checkpoint of step {newest} "
                    f"({type(error).__name__}): continue the run, which goes back to a "
                    "sound one."
                ) from error


def read_arrays(folder: Path, step: int) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Every array of one checkpoint in a folder of `Checkpoints`, by its path.

    Whole and in memory, from however many devices it was saved; of keys their data.
    Raises `ValueError` where it is damaged.
    """
    path: Any = folder.absolute() / str(step)  # Orbax declares a path of its own
    try:
        names = dict(ocp.PyTreeCheckpointHandler().metadata(path / "state").tree)
        arrays = _read_some(path, dict.fromkeys(names, 0))
    except Exception as error:  # whatever a library says of broken files
        raise ValueError(
            f"`folder` ({folder}) has a damaged checkpoint of step {step} "
            f"({type(error).__name__}): compare another one."
        ) from error
    return {name: np.asarray(array) for name, array in arrays.items()}


def _read_some(folder: Any, wanted: Mapping[str, Any]) -> dict[str, Array]:
    """Those of one checkpoint, into memory, whatever devices it was saved from.

    `folder` is any path, though Orbax declares one of its own.
    """
    args = ocp.args.PyTreeRestore(
        dict(wanted),
        restore_args={name: ocp.RestoreArgs(np.ndarray) for name in wanted},
        partial_restore=True,
    )
    found = ocp.PyTreeCheckpointHandler().restore(folder / "state", args=args)
    arrays = {name: jnp.asarray(found[name]) for name in wanted}
    sums: Any = ocp.JsonCheckpointHandler().restore(folder / "sums")
    _check_sums(jax.device_get(_sums(arrays)), sums)
    return arrays


class _OtherModelError(ValueError):
    pass


def _check_sums(found: Mapping[str, Any], saved: Mapping[str, int]) -> None:
    wrong = [name for name in found if int(found[name]) != saved.get(name)]
    if wrong:
        raise ValueError(f"other bits than were saved in {wrong[0]}")


def _is_shaped(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _one_copy(array: Array) -> Array:
    """What Orbax writes of an array: where every device has all of it, that of one.

    To write a part of each copy, it would compile a slice for each device and shape.
    Several processes do, so that each writes its part.
    """
    is_alone = jax.process_count() == 1
    return (
        array.addressable_data(0) if is_alone and array.is_fully_replicated else array
    )


@jax.jit
def _sums(arrays: dict[str, Array]) -> dict[str, UInt32[Array, ""]]:
    """The sum of the bits of each array, taken as integers: the same however placed."""
    total = lambda words: jnp.sum(words.astype(jnp.uint32), dtype=jnp.uint32)
    return {name: total(as_words(array)) for name, array in arrays.items()}


def is_key(leaf: Array | jax.ShapeDtypeStruct) -> bool:
    """Whether an array, or its shape, is one of random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def as_numbers(array: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """`array` in a type to calculate with: keys as their data, booleans as 0 and 1."""
    if is_key(array):
        return jax.random.key_data(array)
    return array.astype(jnp.uint8) if array.dtype == jnp.bool_ else array


def as_words(array: Shaped[Array, "..."]) -> UInt[Array, "..."]:
    """The bits of `array`, an integer an element (of 8 bytes: two)."""
    array = as_numbers(array)
    return lax.bitcast_convert_type(array, _WORDS[array.dtype.itemsize])
