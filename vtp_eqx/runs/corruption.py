"""Silent corruption: a step is computed twice, and compared bit for bit.

A processor that is broken computes wrongly now and then, and no error says so. Two
computations of one step from the same state and batch then differ. What was wrong in
memory before both is the same in both, and is not seen here: see the sums of bits that
checkpoints have.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import json
import math
import os
from pathlib import Path
import socket
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Shaped
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.files import write_text
from vtp_eqx.mesh import gather_texts, SPLIT
from vtp_eqx.models.arrays import named_arrays
from vtp_eqx.runs.checkpoint import as_numbers, as_words, Checkpoints
from vtp_eqx.runs.multihost import all_max, is_main_process
from vtp_eqx.runs.run_dir import CHECKPOINTS
from vtp_eqx.training.state import copy_arrays, TrainState
from vtp_eqx.training.step import Step


CORRUPTION = "corruption"  # the folder in that of a run
FIRST, SECOND = "first", "second"
_NUM_NAMED = 4  # leaves of a host in the error; its report has all
_NUM_ELEMENTS = 8  # elements of a leaf in a report
_DETERMINISTIC = ("xla_gpu_deterministic_ops", "xla_gpu_exclude_nondeterministic_ops")


class CorruptionError(RuntimeError):
    """A step that was computed twice gave two results."""


class Result(NamedTuple):
    """What one computation of a step returned."""

    state: TrainState
    metrics: dict[str, Array]

    def arrays(self) -> dict[str, Array]:
        """The arrays by their paths: `state.student.slope`, `metrics.total`."""
        state = eqx.filter(self.state, eqx.is_array)
        return named_arrays({"state": state}) | named_arrays({"metrics": self.metrics})


@dataclasses.dataclass(frozen=True)
class Difference:
    """An array of which two results have other bits on a device of this process.

    Of the device's part of the array: how many elements differ, of how many, and the
    largest difference, which is NaN where one is or two infinities differ.
    """

    leaf: str
    device: str
    num_differing: int
    size: int
    largest: float

    def __str__(self) -> str:
        return (
            f"{self.leaf} ({self.num_differing} of {self.size} elements, by up to "
            f"{self.largest:.3g})"
        )


def check_recompute(recompute_every: int, platform: str) -> None:
    """Raises `ValueError` where steps cannot be compared on devices of `platform`.

    The kernels of GPUs add in any order unless a flag forbids it.
    """
    require(
        recompute_every >= 0,
        f"`recompute_every` ({recompute_every}) must be a number of steps, or 0 for "
        "never: raise it.",
    )
    flags = os.environ.get("XLA_FLAGS", "")
    is_deterministic = any(f"{flag}=true" in flags.lower() for flag in _DETERMINISTIC)
    require(
        recompute_every == 0 or platform != "gpu" or is_deterministic,
        f"`recompute_every` ({recompute_every}) needs kernels that give the same bits "
        f"each time: set XLA_FLAGS=--{_DETERMINISTIC[0]}=true, or leave it at 0.",
    )


def compute_twice(step: Step, state: TrainState, batch: Any) -> tuple[Result, Result]:
    """Two results of `step(state, batch)`, which donates `state`.

    The second is computed from a copy, so that there are two states in memory.
    """
    spare = copy_arrays(state)
    first = Result(*step(state, batch))
    return first, Result(*step(spare, batch))


def differences(first: Result, second: Result, mesh: Mesh) -> list[Difference]:
    """What differs on the devices of this process; all processes call this.

    Each device compares what it holds: of arrays that are replicated, its own copy.
    """
    ours, theirs = first.arrays(), second.arrays()
    specs = tuple((name, array.sharding.spec) for name, array in ours.items())  # type: ignore
    counts, largest = _comparison(mesh, specs)(ours, theirs)
    sizes = {
        name: math.prod(array.sharding.shard_shape(array.shape))
        for name, array in ours.items()
    }
    found = []
    for shard, large in zip(
        counts.addressable_shards, largest.addressable_shards, strict=True
    ):
        (count,), (most,) = np.asarray(shard.data), np.asarray(large.data)
        device = str(shard.device)
        found += [
            Difference(name, device, int(count[place]), size, float(most[place]))
            for place, (name, size) in enumerate(sizes.items())
            if count[place]
        ]
    return found


def checked_step(
    step: Step,
    state: TrainState,
    batch: Any,
    *,
    mesh: Mesh,
    folder: Path,
    number: int,
    batch_number: int,
    rows: Callable[[int], Sequence[int]] | None,
) -> Result:
    """The result of a step that was computed twice, the same bits both times.

    All processes call this. Where any of them has two results, all raise
    `CorruptionError`, after both were written to a folder in `folder`: `first` and
    `second` have checkpoints, and `report-*.json` of each process what differs, the
    metrics, and the batch with the positions of its examples in the data, by `rows`. Of
    arrays that are replicated, checkpoints have one copy; the report has the elements
    that differ in any.

    A wrong bit that goes through a reduction over devices is wrong on all of them: the
    error then names every host.
    """
    first, second = compute_twice(step, state, batch)
    found = differences(first, second, mesh)
    if not all_max(len(found)):
        return first
    # By all, before any of them writes.
    again = all_max(len([*folder.glob(f"step-{number}-*")]))
    folder = folder / f"step-{number}-{again + 1}"
    kept = f"Both are in {folder}."
    try:
        for name, result in ((FIRST, first), (SECOND, second)):
            with Checkpoints(folder / name / CHECKPOINTS, keep=1) as checkpoints:
                checkpoints.save(result.state)
        _write_report(folder, first, second, found, number, batch_number, rows)
    except Exception as error:  # a full disk must not hide what happened
        kept = f"They could not be written to {folder} ({error})."
    places = "; ".join(filter(None, gather_texts(_describe(found))))
    raise CorruptionError(
        f"Step {number}, computed twice from one state and batch, must have one result;"
        f" got two on {places}. {kept} Test or replace that hardware, and run the same "
        "command again, which continues from the last checkpoint."
    )


@functools.lru_cache(maxsize=4)
def _comparison(
    mesh: Mesh, specs: tuple[tuple[str, PartitionSpec], ...]
) -> Callable[..., tuple[Int[Array, "devices leaves"], Float[Array, "devices leaves"]]]:
    """Of arrays by name: how many elements of each differ, by how much at most."""

    def local(first: Mapping[str, Array], second: Mapping[str, Array]):
        found = [_differ(first[name], second[name]) for name, _ in specs]
        counts, largest = zip(*found, strict=True)
        return jnp.stack(counts)[None], jnp.stack(largest)[None]

    shapes = dict(specs)
    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(shapes, shapes),
            out_specs=SPLIT,
            check_vma=False,  # copies of one array may differ: that is what is asked
        )
    )


def _differ(
    first: Shaped[Array, "..."], second: Shaped[Array, "..."]
) -> tuple[Int[Array, ""], Float[Array, ""]]:
    is_other = as_words(first) != as_words(second)
    number = lambda array: as_numbers(array).astype(jnp.float32)
    apart = jnp.abs(number(first) - number(second))
    largest = jnp.max(jnp.where(is_other, apart, 0), initial=0)
    return jnp.sum(is_other, dtype=jnp.int32), largest


def _describe(found: Sequence[Difference]) -> str:
    """In words, of one process; nothing where nothing differs."""
    if not found:
        return ""
    devices = list(dict.fromkeys(difference.device for difference in found))
    largest: dict[str, Difference] = {}
    for difference in found:
        largest.setdefault(difference.leaf, difference)
    named = [str(difference) for difference in largest.values()]
    more = len(named) - _NUM_NAMED
    listed = ", ".join(named[:_NUM_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"host {socket.gethostname()}, {', '.join(devices)}: {listed}"


def _write_report(
    folder: Path,
    first: Result,
    second: Result,
    found: Sequence[Difference],
    number: int,
    batch_number: int,
    rows: Callable[[int], Sequence[int]] | None,
) -> None:
    """`report-*.json` of this process, if it saw a difference or is the main one."""
    if not found and not is_main_process():
        return
    ours, theirs = first.arrays(), second.arrays()
    report = {
        "step": number,
        "batch": batch_number,
        "rows": [] if rows is None else [int(row) for row in rows(batch_number)],
        "host": socket.gethostname(),
        "process": jax.process_index(),
        "metrics": {
            # JSON has no number that is not finite.
            name: {key: str(float(value)) for key, value in result.metrics.items()}
            for name, result in ((FIRST, first), (SECOND, second))
        },
        "differences": [
            dataclasses.asdict(difference)
            | {
                "largest": str(difference.largest),
                "elements": _elements(
                    *(_part(array[difference.leaf], difference.device)
                      for array in (ours, theirs))
                ),
            }
            for difference in found
        ],
    }  # fmt: skip
    write_text(
        folder / f"report-{jax.process_index()}.json",
        json.dumps(report, indent=1) + "\n",
    )


def _part(array: Array, device: str) -> Array:
    """What a device of this process holds of an array."""
    shards = {str(shard.device): shard.data for shard in array.addressable_shards}
    return shards[device]


def _elements(first: Array, second: Array) -> list[dict[str, Any]]:
    """The first elements that differ: their positions, values and bits."""
    words = [np.ravel(np.asarray(as_words(part))) for part in (first, second)]
    values = [np.ravel(np.asarray(as_numbers(part))) for part in (first, second)]
    places = np.flatnonzero(words[0] != words[1])[:_NUM_ELEMENTS]
    return [
        {
            "index": int(place),
            "values": [str(value[place]) for value in values],
            "bits": [hex(word[place]) for word in words],
        }
        for place in places
    ]
