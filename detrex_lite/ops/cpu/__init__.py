"""Acceleration of models on a CPU: `accelerate(model)`, and the kernels behind it, one function each."""

from .acceleration import accelerate, restore

__all__ = ["accelerate", "restore"]
