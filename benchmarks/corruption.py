"""Bits that flip in a step are caught by computing it twice; what that costs.

python -m benchmarks.corruption --flips 300

Each step of a short training is computed twice, as with `recompute_every` in a run. In
the second computation one bit flips, drawn at random: of a parameter before the step,
of a gradient in it, or of what it returns, on any device. Whether that changed a bit
of the result is decided on the host, and compared with what the devices say.
"""

import argparse
import collections
import contextlib
import dataclasses
import random
import statistics
import time
import timeit
from unittest import mock

import jax

from benchmarks.bit_flips import faulty_at, Flip, flipping, same_bits, TARGETS
from benchmarks.table import print_table
from benchmarks.tiny_twins import init_twin, tiny_twin, twin_batch
from vtp_eqx.config import presets
from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.runs.corruption import compute_twice, differences
from vtp_eqx.training.optimizer import make_optimizer


EVERY = 100  # steps between two that are computed twice, in the cost that is printed
_MAKERS = ("pretrain", "generate")  # modules of trainings


@dataclasses.dataclass
class Counts:
    """Of bit flips: how many there were, changed the result, and were caught."""

    flips: int = 0
    changed: int = 0
    caught: int = 0
    false: int = 0  # results that were the same, reported as different


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Counts by what was flipped, and the times of a step and of a checked one."""

    counts: dict[str, Counts]
    plain: Counts  # without any flip
    step_seconds: float
    checked_seconds: float

    @property
    def is_perfect(self) -> bool:
        """Whether every changed result was caught, and no other one."""
        every = [*self.counts.values(), self.plain]
        return all(one.caught == one.changed and one.false == 0 for one in every)


def inject(preset: str, num_flips: int, *, seed: int = 0) -> Outcome:
    """Flips so many bits of each kind in steps of a preset's tiny twin."""
    # Moments and teacher are split over devices, parameters have a copy on each.
    config = dataclasses.replace(
        tiny_twin(getattr(presets, preset)), sharding="zero", num_steps=10**6
    )
    mesh, draw = data_mesh(), random.Random(seed)
    with _flipping_optimizers():
        state, step = init_twin(config, mesh)
    batches = [shard_batch(twin_batch(config, number), mesh) for number in range(8)]

    def replay(flip: Flip | None, counts: Counts) -> None:
        nonlocal state
        replayed = step if flip is None else faulty_at(step, 2, flip)
        batch = batches[counts.flips % len(batches)]
        first, second = compute_twice(replayed, state, batch)
        is_changed = not all(
            map(same_bits, first.arrays().values(), second.arrays().values())
        )
        is_caught = bool(differences(first, second, mesh))
        counts.flips += 1
        counts.changed += is_changed
        counts.caught += is_caught and is_changed
        counts.false += is_caught and not is_changed
        state = first.state

    plain, counts = Counts(), collections.defaultdict(Counts)
    for _ in range(num_flips):
        replay(None, plain)
        for target in TARGETS:
            replay(Flip.draw(target, draw), counts[target])

    def plainly() -> None:
        nonlocal state
        state, _ = step(state, batches[0])
        jax.block_until_ready(state)

    def checked() -> None:
        nonlocal state
        first, second = compute_twice(step, state, batches[0])
        differences(first, second, mesh)
        state = jax.block_until_ready(first.state)

    seconds = (
        statistics.median(timeit.repeat(call, number=1, repeat=31))
        for call in (plainly, checked)
    )
    return Outcome(dict(counts), plain, *seconds)


@contextlib.contextmanager
def _flipping_optimizers():
    """A block in which trainings are made with gradients that can be flipped."""
    with contextlib.ExitStack() as stack:
        for module in _MAKERS:
            stack.enter_context(
                mock.patch(
                    f"vtp_eqx.training.{module}.make_optimizer",
                    lambda *arguments: flipping(make_optimizer(*arguments)),
                )
            )
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="GENERATE_LAPTOP")
    parser.add_argument("--flips", type=int, default=300, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    outcome = inject(options.preset, options.flips, seed=options.seed)
    rows = [
        (name, *map(str, (one.flips, one.changed, one.caught, one.false)))
        for name, one in [*outcome.counts.items(), ("nothing", outcome.plain)]
    ]
    columns = ("flipped bit of", "steps", "result changed", "caught", "false alarms")
    print_table(f"Bit flips in the tiny twin of {options.preset}", columns, rows)
    step, checked = outcome.step_seconds, outcome.checked_seconds
    print(
        f"\nA step takes {1e3 * step:.2f} ms, one that is computed twice "
        f"{1e3 * checked:.2f} ms: every {EVERY} steps, that is "
        f"{100 * (checked - step) / (EVERY * step):.2f}% of a run. "
        f"{time.monotonic() - started:.0f} s in all."
    )
    if not outcome.is_perfect:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
