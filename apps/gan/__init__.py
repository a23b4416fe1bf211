"""Images with a chosen pose and a random appearance: a GAN conditioned on the edge map (Appendix C.1)."""

from .generator import ConditionalGAN, ConditionalGANConfig, Generator

__all__ = ["ConditionalGAN", "ConditionalGANConfig", "Generator"]
