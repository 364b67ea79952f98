"""folder.py for small models: images of about 320 pixels, with augmentation for a few hundred images from scratch."""

from .folder import dataloader, dataset

dataloader.train.mapper.augmentation.update(
    short_edge_lengths=[213, 267, 320, 373, 427],
    max_size=683,
    crop_probability=0.5,
    short_edges_before_crop=[400, 500, 600],
    crop_range=[267, 600],
    distort_probability=0.5,
)
dataloader.train.update(total_batch_size=16, num_workers=1)
dataloader.test.mapper.augmentation.update(short_edge_length=320, max_size=512)
dataloader.test.update(batch_size=8, num_workers=1)
