"""Shared parts of tests that run detectron2 itself."""

import importlib.util

import pytest

needs_detectron2 = pytest.mark.skipif(
    importlib.util.find_spec("detectron2") is None,
    reason="detectron2 is not installed; docs/detectron2.md says how to install it",
)
