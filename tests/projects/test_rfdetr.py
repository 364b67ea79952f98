"""RF-DETR as a whole. Models are small; their structure is that of the configs."""

from detrex_lite.config import get_config
from detrex_lite.testing import DeformableContract, changed

from .test_lwdetr import SMALL


def small_config(**changes):
    cfg = get_config("projects/rfdetr/configs/models/rfdetr_nano.py").model
    return changed(cfg, {**SMALL, **changes})


class TestRFDETR(DeformableContract):
    other_suffixes = frozenset({"_enc"})

    def config(self, **changes):
        return small_config(**changes)
