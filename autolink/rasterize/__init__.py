"""Engines that draw edge maps: one meaning (`reference`), faster ways to the same numbers (`thrifty`).

Both take keypoints (B, K, 2), edge weights (E,) and σ² as a scalar or (E,), and return (B, 1, H, W).
"""

from autolink.rasterize.reference import draw_edges_reference
from autolink.rasterize.thrifty import draw_edges_thrifty

__all__ = ["draw_edges_reference", "draw_edges_thrifty"]
