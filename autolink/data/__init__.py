"""Data sets: folders of images or videos, images with landmarks, benchmarks by name, synthetic figures."""

from autolink.data.registry import describe_data, list_data, open_data, open_samples
from autolink.data.sample import Sample, SampleSet
from autolink.data.synthetic import JOINT_NAMES, SKELETON_LINKS, synthetic_clip

__all__ = [
    "JOINT_NAMES",
    "SKELETON_LINKS",
    "Sample",
    "SampleSet",
    "describe_data",
    "list_data",
    "open_data",
    "open_samples",
    "synthetic_clip",
]
