"""Public data sets known by name, each in the layout in which its owners distribute it."""

from autolink.data.benchmarks.benchmark import GENERAL_THICKNESS, Benchmark, EvaluationProtocol
from autolink.data.benchmarks.table import BENCHMARKS

__all__ = ["BENCHMARKS", "GENERAL_THICKNESS", "Benchmark", "EvaluationProtocol"]
