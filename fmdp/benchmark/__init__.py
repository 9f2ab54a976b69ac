"""Denoising of standard test pictures by a prior, beside other denoisers and published numbers."""
