"""Random numbers that are a function of (seed, name, counter) and of nothing else.

Numpy generators carry a moving state, so that a number depends on what was drawn
before it. Here every number is a hash of its own address: it is the same whichever
other counters are asked for with it, in any order, on any machine.
"""

import dataclasses
import hashlib

from jaxtyping import Float, Float32, Int, UInt64
import numpy as np


_STRIDE = np.uint64(0x9E3779B97F4A7C15)


def scramble(words: UInt64[np.ndarray, "*axes"]) -> UInt64[np.ndarray, "*axes"]:
    """Well-mixed 64 bits for each word: the finalizer of SplitMix64.

    Steele, Lea and Flood 2014, https://doi.org/10.1145/2714064.2660195.
    """
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@dataclasses.dataclass(frozen=True)
class CounterRNG:
    """Named random numbers, one for each counter."""

    seed: int
    counters: Int[np.ndarray, " n"]

    def bits(self, name: str) -> UInt64[np.ndarray, " n"]:
        """64 random bits for each counter; other names give independent bits."""
        address = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()[:8]
        start = np.uint64(int.from_bytes(address, "little"))
        return scramble(start + self.counters.astype(np.uint64) * _STRIDE)

    def uniform(
        self, name: str, low: float = 0.0, high: float = 1.0
    ) -> Float[np.ndarray, " n"]:
        """Uniform numbers in `[low, high)`, float64."""
        unit = (self.bits(name) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return low + (high - low) * unit

    def integer(self, name: str, count: int) -> Int[np.ndarray, " n"]:
        """Uniform integers in `[0, count)`."""
        return (self.uniform(name) * count).astype(np.int64)

    def permutation(self, name: str, count: int) -> Int[np.ndarray, "n {count}"]:
        """A random order of `range(count)` for each counter."""
        ranks = [self.bits(f"{name}/{place}") for place in range(count)]
        return np.argsort(np.stack(ranks, axis=1), axis=1)

    def noise(
        self, name: str, places: int
    ) -> tuple[Float32[np.ndarray, "n {places}"], ...]:
        """Three noises of mean 0 and deviation 1 for each of `places`.

        Each is a sum of two uniform integers (a triangular law): it needs no
        transcendental function, whose last bit differs from machine to machine.
        """
        steps = np.arange(1, places + 1, dtype=np.uint64) * _STRIDE
        words = scramble(self.bits(name)[:, None] + steps)
        scale = np.float32(1 / np.sqrt((1024**2 - 1) / 6))
        noises = []
        for channel in range(3):
            one = (words >> np.uint64(20 * channel)) & np.uint64(1023)
            two = (words >> np.uint64(20 * channel + 10)) & np.uint64(1023)
            sums = (one + two).astype(np.float32) - np.float32(1023)
            noises.append(sums * scale)
        return tuple(noises)
