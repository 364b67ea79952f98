"""The config of the tiny model; see the comments in `tiny.py`."""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from tests.engine.tiny import CountingEvaluator, TinyDetector, TinyLoader

model = L(TinyDetector)(num_classes=3, dropout=0.5)
dataloader = {
    "train": L(TinyLoader)(batch_size=2, length=None, fail_at=None, signal_at=None),
    "test": L(TinyLoader)(batch_size=2, length=2),
    "evaluator": L(CountingEvaluator)(values=[10.0]),
}
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_one_cycle
train = get_config("common/train.py").train

optimizer.lr = 0.01
train.device = "cpu"
train.max_iter = 6
train.eval_period = 0
train.checkpointer.period = 2
train.log_period = 1
