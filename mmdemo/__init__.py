"""mmdemo: look inside a VQ-VAE and a diffusion transformer. The version, and nothing that costs time to import."""

__version__ = "0.1.0"
