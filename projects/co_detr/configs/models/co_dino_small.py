"""A small Co-DINO that trains from scratch on a CPU: ResNet-18, 128 channels, 2 + 3 layers."""

from detrex_lite.config import get_config

from .co_dino_r50 import model

model.merge_with(get_config("common/small_deformable.py").small)
model.denoising.num_pairs = 20
model.criterion.weights.loss_class = 1.0
model.postprocessor.suppression = None
model.collaboration.heads.rcnn.hidden_dim = 128
model.collaboration.heads.rcnn.num_before_nms = 200
model.collaboration.heads.rcnn.num_proposals = 100
model.collaboration.heads.rcnn.roi_samples = 64
model.collaboration.queries.rcnn.max_queries = 30
model.collaboration.queries.atss.max_queries = 30
