"""The small DINO on a folder of your own images, from nothing; classes, epochs and learning rate follow from them.

detrex-lite train projects/dino/configs/dino_small_folder.py dataset.root=FOLDER

`detrex-lite train dino_small --data FOLDER` is the same, with a batch and an image size that suit the machine as well.
"""

from detrex_lite.config import get_config

from .dino_small_shapes import lr_multiplier, model, optimizer, train

dataset = get_config("common/data/folder_small.py").dataset
dataloader = get_config("common/data/folder_small.py").dataloader
pretrained = get_config("common/derived.py").pretrained
published = dict(epochs=3, batch=16, lr=5e-4)

_derived = get_config("common/derived.py").derived
del _derived.model["backbone"], _derived.optimizer["params"]  # they are for backbones with weights
model.merge_with(_derived.model)
optimizer.merge_with(_derived.optimizer)
train.merge_with(_derived.train, {"output_dir": "output/dino_small_folder"})
train.update(max_iter=None, eval_period=None, eval_epochs=10)
train.checkpointer.period = None
train.checkpoint_epochs = 10
