import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.layers import PositionEmbeddingSine
from detrex_lite.modeling import SingleLevelDetector
from detrex_lite.structures import ImageBatch


class Backbone(nn.Module):
    def forward(self, images):
        return {"fine": images[:, :, ::2, ::2], "coarse": images[:, :, ::4, ::4]}


@pytest.fixture
def detector():
    return SingleLevelDetector(
        backbone=Backbone(),
        in_feature="coarse",
        in_channels=3,
        embed_dim=8,
        position_embedding=PositionEmbeddingSine(num_pos_feats=4),
        num_classes=2,
        criterion=nn.Identity(),
        postprocessor=None,
        pixel_mean=[0.0, 0, 0],
        pixel_std=[1.0, 1, 1],
    )


def test_it_reads_the_map_that_it_is_told_to(detector):
    images = torch.randn(1, 3, 16, 24)
    (found,) = detector.feature_maps(images)
    assert_close(found, detector.input_proj(images[:, :, ::4, ::4]))
    assert (found.shape[1], detector.aux_loss) == (8, True)


def test_positions_are_those_of_the_images_without_their_padding(detector):
    together = ImageBatch.from_images([torch.randn(3, 16, 24), torch.randn(3, 8, 16)])
    feature, positions = detector.eval().feature_and_positions(together)
    assert feature.image_sizes == [(4, 6), (2, 4)]
    assert positions.shape == (2, 8, 4, 6)
    alone = ImageBatch.from_images([together.tensor[1, :, :8, :16]])
    feature_alone, positions_alone = detector.feature_and_positions(alone)
    assert_close(feature.tensor[1:, :, :2, :4], feature_alone.tensor)
    assert_close(positions[1:, :, :2, :4], positions_alone)
