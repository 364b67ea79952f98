"""Focus-DETR R50 for 36 epochs; learning rate x 0.1 after epoch 30.

detrex-lite train projects/focus_detr/configs/focus_detr_r50_4scale_36ep.py --num-gpus 8

As detrex trains it; see focus_detr_r50_4scale_12ep.py.
"""

from .focus_detr_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

# As detrex's, whose weights were trained with these position embeddings.
model.position_embedding.temperature = 20
model.position_embedding.offset = 0.0
lr_multiplier.epochs = 36
lr_multiplier.milestones = [30]
train.max_epochs = 36
train.output_dir = "output/focus_detr_r50_4scale_36ep"
