"""How fast the default study's parts run here, as a share of the machine's peak.

python -m benchmarks.study_speed

FLOPs are the paper's `2 * parameters * tokens` for a forward pass, and two more of them
for a backward pass; attention products, augmentation and rematerialization are work
too, but do not count.
"""

import dataclasses

from benchmarks.table import print_table
from benchmarks.works import coding, compiled, generator_step, joint, sampling, timed
from experiments.scale_encoder import LAPTOP
from vtp_eqx.mesh import data_mesh
from vtp_eqx.study.recipe import run
from vtp_eqx.training.flops import device_peak


BATCH = 256  # of sampling, encoding and decoding


def main() -> None:
    alone, spec = (run(LAPTOP, method, "", 0) for method in ("AE", "VTP"))
    many = dataclasses.replace(spec.generate, batch_size=BATCH)
    mesh = data_mesh(1)
    peak, source = device_peak()
    rows = []
    for work in (
        joint("tokenizer step, AE", alone.pretrain),
        joint("tokenizer step, VTP", spec.pretrain),
        generator_step("DiT step", spec.generate),
        sampling("sampling", many, spec.sampler),
        *coding(spec.pretrain.tokenizer, BATCH),
    ):
        ready = compiled(work, mesh)
        seconds, _, _ = timed(work, ready, mesh)
        cells = (
            f"{ready.seconds:.1f}",
            f"{seconds * 1e3:.1f}",
            f"{work.images / seconds:.0f}",
            f"{work.flops / seconds / 1e9:.1f}",
            f"{work.flops / seconds / peak:.2f}",
        )
        rows.append((work.name, str(work.batch), *cells))
    columns = ("part", "batch", "compiled in, s", "median ms", "images/s", "GFLOP/s")
    print_table("Speed of the default study", (*columns, "of peak"), rows)
    print(f"\nPeak: {peak / 1e9:.0f} GFLOP/s ({source}).")


if __name__ == "__main__":
    main()
