"""Speed, memory and exactness on one accelerator, within a time limit.

python -m benchmarks.accelerator --out results  # one H100 or H200, nine minutes
python -m benchmarks.accelerator --tiny --devices cpu  # tries the script itself

Parts in order of value, each printed and written as it ends: training steps of the
tokenizers and of the generators at published sizes in bfloat16, and where their time
goes, by kernel; sampling; steps with plain attention, views alone, one objective alone;
whether fused attention agrees with the plain one, and small steps and samples with the
CPU's. The whole step is measured, its views drawn on the device, of a batch that lies
there.

All programs compile at once, in threads, before the first is timed. FLOPs are those of
`vtp_eqx.training.flops`: products with weights, backward passes counted twice, without
attention's own products. MFU is their share of the data sheet's dense bfloat16 peak.
`results` gets results.json, accelerator.md and the largest kernels of a traced step.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
import dataclasses
import json
import os
from pathlib import Path
import tempfile
import time
import traceback
from typing import Any, Literal

import jax
from jax.sharding import Mesh
import tyro

from benchmarks.accelerator_checks import CHECKS
from benchmarks.table import machine, markdown
from benchmarks.works import (
    Compiled,
    compiled,
    generator_step,
    joint,
    OBJECTIVES,
    only,
    sampling,
    small_config,
    SMALL_DIT,
    timed,
    views_alone,
    Work,
)
from vtp_eqx.config import (
    Attention,
    DIT_B,
    DIT_XL,
    DiTConfig,
    GenerateConfig,
    PretrainConfig,
    SamplerConfig,
)
from vtp_eqx.config.presets import PRETRAIN_B, PRETRAIN_L, PRETRAIN_S, with_batch
from vtp_eqx.mesh import data_mesh
from vtp_eqx.study.checkout import commit
from vtp_eqx.training.flops import known_peak


COMPILE_SHARE = 0.55  # of the time limit: then what is ready is timed
SAMPLER = SamplerConfig(solver="euler", num_steps=20)  # the rate of one step counts
CHECK_SECONDS = 60  # that a check may take, at least
COLUMNS = (
    "part", "batch", "images/s", "ms", "TFLOP/s", "MFU", "GB", "compiled in, s"
)  # fmt: skip


class Report:
    """Rows that are printed and written as they come."""

    def __init__(self, out: Path):
        self.out, self.begun = out, time.monotonic()
        self.checks: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        out.mkdir(parents=True, exist_ok=True)

    def passed(self) -> float:
        return time.monotonic() - self.begun

    def add(self, entries: list[Any], entry: Any) -> None:
        entries.append(entry)
        print(f"[{self.passed():5.0f} s] {entry}", flush=True)
        self.write()

    def note(self, text: str) -> None:
        self.add(self.notes, text)

    def write(self) -> None:
        seconds = round(self.passed())
        facts = {"machine": machine(), "commit": commit(), "seconds": seconds}
        lists = {"checks": self.checks, "rows": self.rows, "notes": self.notes}
        (self.out / "results.json").write_text(json.dumps(facts | lists, indent=1))
        (self.out / "accelerator.md").write_text(self.markdown(facts))

    def markdown(self, facts: dict[str, Any]) -> str:
        checks = [(row["check"], row["difference"]) for row in self.checks]
        rows = [[row.get(name, "") for name in COLUMNS] for row in self.rows]
        parts = [
            "**One accelerator**",
            "\n".join(f"- {name}: {value}" for name, value in facts.items()),
            markdown(("check", "largest difference"), checks),
            markdown(COLUMNS, rows),
            *self.notes,
        ]
        return "\n\n".join(parts) + "\n"


def programs(*, tiny: bool) -> list[Work]:
    """What is timed; `tiny` ones compute in float32 and take a CPU minutes."""
    if tiny:
        config, generate = small_config(), GenerateConfig(dit=SMALL_DIT, batch_size=8)
        return [
            joint("joint step", config),
            generator_step("DiT step", generate),
            sampling("sampling DiT", generate, SAMPLER),
            views_alone("views alone", config),
        ]
    small = _tokenizer(PRETRAIN_S, 512)
    plain_small = _tokenizer(PRETRAIN_S, 512, "plain")
    rematerialized = dataclasses.replace(DIT_XL, remat="dots")
    plain_training = _generator(rematerialized, 128, "plain")
    plain_sampling = _generator(DIT_XL, 128, "plain")
    return [
        joint("VTP-S", small, traced=True),
        joint("VTP-B", _tokenizer(PRETRAIN_B, 256)),
        joint("VTP-L", _tokenizer(PRETRAIN_L, 256)),
        generator_step("DiT-XL", _generator(rematerialized, 128), traced=True),
        generator_step("DiT-B", _generator(DIT_B, 256)),
        sampling("sampling DiT-XL", _generator(DIT_XL, 128), SAMPLER),
        sampling("sampling DiT-XL", _generator(DIT_XL, 512), SAMPLER),
        views_alone("views of VTP-S alone", small),
        joint("VTP-S, plain attention", plain_small),
        generator_step("DiT-XL, plain attention", plain_training),
        *(joint(f"VTP-S, {name} only", only(name, small)) for name in OBJECTIVES),
        sampling("sampling DiT-XL, plain attention", plain_sampling, SAMPLER),
    ]


def _tokenizer(
    preset: PretrainConfig, batch: int, attention: Attention = "fused"
) -> PretrainConfig:
    shape = preset.tokenizer
    encoder, decoder = (
        dataclasses.replace(part, attention=attention)
        for part in (shape.encoder, shape.decoder)
    )
    shape = dataclasses.replace(shape, encoder=encoder, decoder=decoder)
    return with_batch(preset, batch, tokenizer=shape, accumulate=1, sharding="none")


def _generator(
    dit: DiTConfig, batch: int, attention: Attention = "fused"
) -> GenerateConfig:
    dit = dataclasses.replace(dit, attention=attention)
    return GenerateConfig(dit=dit, batch_size=batch, precision="bfloat16")


def row_of(
    work: Work, ready: Compiled, seconds: float, metrics: dict[str, float]
) -> dict[str, Any]:
    memory = ready.step.memory_analysis()
    needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    row: dict[str, Any] = {
        "part": work.name,
        "batch": str(work.batch),
        "images/s": f"{work.images / seconds:.0f}",
        "ms": f"{1e3 * seconds:.1f}",
        "GB": f"{needed / 1e9:.1f}",
        "compiled in, s": f"{ready.seconds:.0f}",
    }
    if work.flops:
        row["TFLOP/s"] = f"{work.flops / seconds / 1e12:.1f}"
        if peak := known_peak(jax.devices()[0].device_kind):
            row["MFU"] = f"{work.flops / seconds / peak:.1%}"
    names = ("total", "gradient_norm", "skipped", "flow")
    return row | {"metrics": {n: metrics[n] for n in names if n in metrics}}


def kernels(call: Callable[[], Any], out: Path, name: str, steps: int = 2) -> list[str]:
    """The kernels that take most of a step, a line each; all go to a file."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                call()
        [path] = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
        events = [
            event
            for plane in data.planes
            if "/device:GPU" in plane.name
            for line in plane.lines
            if line.name.startswith("Stream")
            for event in line.events
        ]
    totals: dict[str, list[float]] = {}
    for event in events:
        entry = totals.setdefault(event.name, [0.0, 0])
        entry[0] += event.duration_ns / 1e6 / steps
        entry[1] += 1 / steps
    ranked = sorted(totals.items(), key=lambda item: -item[1][0])
    whole = sum(ms for ms, _ in totals.values())
    lines = [
        f"{ms:9.2f} ms {ms / whole:6.1%} {count:6.0f} x {kernel[:110]}"
        for kernel, (ms, count) in ranked
    ]
    label = name.lower().replace(" ", "-").replace(",", "")
    (out / f"kernels-{label}.txt").write_text("\n".join(lines))
    return [f"Kernels of {name}: {whole:.1f} ms a step", *lines[:15]]


def main(
    out: Path = Path("runs/accelerator"),
    minutes: float = 9.0,
    devices: Literal["default", "cpu"] = "default",
    tiny: bool = False,
    threads: int = 8,
    parts: tuple[str, ...] = (),
) -> None:
    """Times and checks until the time is over.

    Args:
        out: folder of the results.
        minutes: that this may take.
        devices: where to compute.
        tiny: small sizes in float32, to try the script.
        threads: that compile.
        parts: words; only what has one of them in its name is timed.
    """
    if devices == "cpu":
        jax.config.update("jax_platforms", "cpu")
    limit = 60 * minutes
    report, mesh = Report(out), data_mesh(1)
    pool = ThreadPoolExecutor(threads)
    futures: list[tuple[Work, Future[Compiled]]] = [
        (work, pool.submit(compiled, work, mesh))
        for work in programs(tiny=tiny)
        if not parts or any(part in work.name for part in parts)
    ]
    wait([future for _, future in futures], timeout=COMPILE_SHARE * limit)
    report.note(f"{sum(f.done() for _, f in futures)} of {len(futures)} compiled")

    def attempt(name: str, seconds: float, part: Callable[..., None], *of: Any) -> None:
        """One that fails must not take the others with it."""
        if report.passed() > limit - seconds:
            report.note(f"no time for {name}")
            return
        try:
            part(*of)
        except Exception:
            report.note(f"{name} failed: {traceback.format_exc(limit=-3)}")

    def measure(work: Work, future: Future[Compiled]) -> None:
        ready = future.result(timeout=limit - 15 - report.passed())
        seconds, call, metrics = timed(work, ready, mesh)
        report.add(report.rows, row_of(work, ready, seconds, metrics))
        if work.traced:
            report.note("\n".join(kernels(call, out, work.name)))

    def compare(check: Callable[[Mesh], Iterator[dict[str, Any]]]) -> None:
        for row in check(mesh):
            report.add(report.checks, row)

    # Those that are ready come first, each group in order of value.
    for work, future in sorted(futures, key=lambda pair: not pair[1].done()):
        attempt(work.name, 15, measure, work, future)
    for check in CHECKS:  # last: they compile on the host too, a minute or two each
        attempt(check.__name__, CHECK_SECONDS, compare, check)
    pool.shutdown(wait=False, cancel_futures=True)
    report.note(f"ended after {report.passed():.0f} s")
    os._exit(0)  # at once: a compilation cannot be cancelled, and may take minutes


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
