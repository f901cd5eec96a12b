"""Speed of a run: images per second, share of the peak, time left."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import time


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepCost:
    """The cost of one step: images, FLOPs and the peak of the devices."""

    images: int
    flops: float | None = None  # of all devices, backward passes included
    peak: float | None = None  # FLOP/s of all devices


class Throughput:
    """Measures the steps between two readings, without pauses."""

    def __init__(self, cost: StepCost | None):
        self._cost = cost
        self._started: float | None = None
        self._first = 0
        self._waited = self._paused = 0.0

    def start(self, step: int) -> None:
        """Measures from here, where `step` steps are done."""
        self._started, self._first = time.monotonic(), step
        self._waited = self._paused = 0.0

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """A block that waits for data."""
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A block that does not count, such as an evaluation."""
        started = time.monotonic()
        yield
        self._paused += time.monotonic() - started

    def read(self, step: int, num_steps: int) -> dict[str, float]:
        """The speed since the last reading, without the first step, which compiles.

        `images_per_second`, `data_wait` (the share of time spent waiting for data),
        `mfu` (model FLOPs as a share of the peak) and `seconds_left`.
        """
        started, steps, waited = self._started, step - self._first, self._waited
        seconds = time.monotonic() - (started or 0.0) - self._paused
        self.start(step)
        if self._cost is None or started is None or steps == 0 or seconds <= 0:
            return {}
        rate = steps / seconds
        found = {
            "images_per_second": rate * self._cost.images,
            "data_wait": waited / seconds,
            "seconds_left": (num_steps - step) / rate,
        }
        if self._cost.flops is not None and self._cost.peak is not None:
            found["mfu"] = rate * self._cost.flops / self._cost.peak
        return {name: float(f"{value:.4g}") for name, value in found.items()}


def print_progress(step: int, num_steps: int, values: Mapping[str, float]) -> None:
    """Prints one line: the step, losses, gFID, the speed, the time left."""
    parts = [f"step {step}/{num_steps}"]
    names = ["total", "contrast", "distillation", "reconstruction"]
    names += [name for name in values if name.startswith(("gFID", "gFD-"))]
    parts += [f"{name} {values[name]:.4g}" for name in names if name in values]
    if values.get("num_skipped"):
        parts.append(f"{values['num_skipped']:.0f} skipped")
    if "images_per_second" in values:
        parts.append(f"{values['images_per_second']:.4g} images/s")
    if "mfu" in values:
        parts.append(f"MFU {values['mfu']:.1%}")
    if "data_wait" in values:
        parts.append(f"data wait {values['data_wait']:.0%}")
    if "seconds_left" in values:
        parts.append(f"{format_duration(values['seconds_left'])} left")
    print("  ".join(parts), flush=True)


def throttled_print(text: str) -> Callable[[int, int], None]:
    """Prints `text` with both numbers, at most every five seconds."""
    last = time.monotonic()

    def say(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 5:
            print(text.format(done, total), flush=True)
            last = time.monotonic()

    return say


def format_duration(seconds: float) -> str:
    """Days, hours and minutes, or minutes and seconds, whichever fit."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes}:{rest:02d} min"
