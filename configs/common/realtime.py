"""Training of real-time detectors: AdamW without weight decay of norms, mixed precision, a moving average of weights.

A leaf config takes `optimizer` and `train` and sets learning rates, epochs and, for D-FINE and DEIM,
`train.model_ema.restart.epoch`.
"""

from detrex_lite.config import get_config

optimizer = get_config("common/optim.py").AdamW
train = get_config("common/train.py").train

optimizer.params.weight_decay_norm = 0.0

train.amp.enabled = True
train.sync_batch_norm = True  # applies to several processes, which must then be on GPUs
train.clip_grad.enabled = True
train.clip_grad.params.max_norm = 0.1
train.model_ema.merge_with({"enabled": True, "decay": 0.9999, "warmup": 2000})
train.checkpointer.period = None
train.checkpoint_epochs = 1
train.eval_period = None
train.eval_epochs = 1
