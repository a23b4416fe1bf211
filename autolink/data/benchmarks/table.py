"""All benchmarks, by name. A new one is a line here and a module beside this one."""

from __future__ import annotations

from autolink.data.benchmarks.afhq import AFHQ
from autolink.data.benchmarks.benchmark import Benchmark
from autolink.data.benchmarks.celeba import CELEBA_ALIGNED, CELEBA_WILD
from autolink.data.benchmarks.cub import CUB_ALIGNED, CUB_ALL, CUB_SPECIES
from autolink.data.benchmarks.deepfashion import DEEPFASHION
from autolink.data.benchmarks.flower import FLOWER
from autolink.data.benchmarks.hands import HANDS
from autolink.data.benchmarks.horse2zebra import HORSES, ZEBRAS
from autolink.data.benchmarks.human36m import HUMAN36M, HUMAN36M_ALONE
from autolink.data.benchmarks.taichi import TAICHI
from autolink.data.benchmarks.voxceleb2 import VOXCELEB2

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        CELEBA_ALIGNED,
        CELEBA_WILD,
        HUMAN36M,
        HUMAN36M_ALONE,
        DEEPFASHION,
        TAICHI,
        CUB_ALIGNED,
        *CUB_SPECIES,
        CUB_ALL,
        FLOWER,
        HANDS,
        HORSES,
        ZEBRAS,
        VOXCELEB2,
        AFHQ,
    )
}
