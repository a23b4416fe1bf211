"""Keypoints linked by a learned graph, from unlabelled images, and generators driven by them."""

from autolink.detector import Keypoints
from autolink.edges import draw_edges
from autolink.errors import UserError
from autolink.model import AutoLink, AutoLinkConfig, load

__all__ = ["AutoLink", "AutoLinkConfig", "Keypoints", "UserError", "draw_edges", "load"]
