"""PnP-DETR with a ResNet-50, as detrex trains it: DETR on the best-scoring half of all cells, plus 30 pooled ones."""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling.single_level import PollAndPoolSampler

model = get_config("projects/detr/configs/models/detr_r50.py").model

model.transformer.sampler = L(PollAndPoolSampler)(
    embed_dim="${...embed_dim}", sample_ratio=0.5, num_pooled=30, loss_weight=1e-4
)
