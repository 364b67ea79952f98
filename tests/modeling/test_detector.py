import pytest
from torch import nn

from detrex_lite.modeling import Detector


class OnlyPredicts(Detector):
    def predict(self, images, targets=None):
        return {}


def test_a_detector_without_decode_cannot_be_compiled():
    detector = OnlyPredicts(
        num_classes=1, criterion=nn.Identity(), postprocessor=list, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3
    )
    with pytest.raises(NotImplementedError, match="OnlyPredicts must write decode, which is what is compiled"):
        detector.compile()
