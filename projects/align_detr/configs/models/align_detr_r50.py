"""Align-DETR with a ResNet-50 and four feature levels: DINO with another criterion.

As in detrex's model file, each object has one candidate; the training configs set two, and the better candidate has the
larger weight: `model.criterion.matcher.candidates`, `.final_candidates` and `.ranking.tau`.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling import IoUAwareBCELoss, RankWeights

model = get_config("projects/dino/configs/models/dino_r50.py").model

model.criterion.losses.loss_class = L(IoUAwareBCELoss)(alpha=0.25, gamma=2.0, eps=1e-6)
model.criterion.matcher.candidates = 1
model.criterion.matcher.final_candidates = 1
model.criterion.matcher.ranking = L(RankWeights)(
    tau=0.33, alpha="${...losses.loss_class.alpha}", eps="${...losses.loss_class.eps}"
)
