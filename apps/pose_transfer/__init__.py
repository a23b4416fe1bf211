"""Pose transfer: a source image moves as a driver does (Appendix C.2)."""

from .model import PoseTransfer, PoseTransferConfig, TransferNet

__all__ = ["PoseTransfer", "PoseTransferConfig", "TransferNet"]
