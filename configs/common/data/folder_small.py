"""folder.py for small models: images of about 320 pixels, without crops."""

from .folder import dataloader, dataset

dataloader.train.mapper.augmentation.update(short_edge_lengths=[256, 288, 320, 352], max_size=512, crop_probability=0.0)
dataloader.train.update(total_batch_size=16, num_workers=1)
dataloader.test.mapper.augmentation.update(short_edge_length=320, max_size=512)
dataloader.test.update(batch_size=8, num_workers=1)
