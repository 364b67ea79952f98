"""Small models that overfit four images of generated shapes, from scratch."""

import torch

from detrex_lite.config import get_config
from detrex_lite.data import DetrDatasetMapper, generate_shapes, load_shapes
from detrex_lite.evaluation import CocoEvaluator
from detrex_lite.testing import build, changed

NUM_CLASSES = 3
# Changes that make a config with one feature map small: ResNet-18 up to stride 8, 64 channels.
SMALL_SINGLE_LEVEL = {
    "num_classes": NUM_CLASSES,
    "num_queries": 15,
    "backbone.depth": 18,
    "backbone.out_features": ["res3"],
    "backbone.norm": "BN",
    "backbone.freeze_at": 0,
    "in_feature": "res3",
    "embed_dim": 64,
    "position_embedding.num_pos_feats": 32,
    "position_embedding.temperature": 20,
    "position_embedding.normalize": False,
    "transformer.encoder.num_layers": 1,
    "transformer.encoder.layer.attn.num_heads": 4,
    "transformer.encoder.layer.ffn.feedforward_dim": 128,
    "transformer.decoder.num_layers": 3,
}


def small_deformable(cfg, **changes):
    """Return the reduced config of a detector with several feature levels."""
    cfg.merge_with(get_config("common/small_deformable.py").small)
    sizes = {"embed_dim": 64, "position_embedding.num_pos_feats": 32, "num_queries": 15}
    return changed(cfg, {"num_classes": NUM_CLASSES, **sizes, **changes})


def four_images(folder, *, masks=False):
    """Return the data set, and its images as inputs of a model."""
    generate_shapes(folder, num_train=4, num_val=1, image_size=64, empty_share=0.0)
    dataset = load_shapes(folder, "train", masks=masks)
    mapper = DetrDatasetMapper(augmentation=None, is_train=True)
    return dataset, [mapper(dataset[index]) for index in range(len(dataset))]


def trained(cfg, inputs, steps, lr=1e-3):
    """Return the model of a config after training on the same images, and the total loss of each step."""
    model = build(cfg).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    totals = []
    for _ in range(steps):
        loss = torch.stack(list(model(inputs).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        totals.append(loss.item())
    return model, totals


def overfitted_ap50(cfg, folder, steps, lr=1e-3, *, masks=False):
    """Return AP50, between 0 and 1, of boxes or of masks, on four images after training on them."""
    dataset, inputs = four_images(folder, masks=masks)
    model, _ = trained(cfg, inputs, steps, lr)
    model.eval()
    evaluator = CocoEvaluator(dataset=dataset)
    with torch.no_grad():
        for model_input in inputs:
            evaluator.process([model_input], model([model_input]))
    return evaluator.evaluate()["segm" if masks else "bbox"]["AP50"] / 100
