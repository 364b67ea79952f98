"""Images or feature maps of different sizes in one padded tensor; all padding and masking is done here."""

import math

import torch
from torch import Tensor


class ImageBatch:
    """Images padded with zeros at the right and the bottom to a common size.

    Attributes:
        tensor: (B, C, H, W).
        image_sizes: B pairs (height, width): the true sizes in cells of `tensor`; empty in a batch of an exported
            graph, where sizes are symbolic.
        mask: (B, H, W) bool, True in the padding, or None when no image is padded (attention is faster without a mask,
            and an all-False mask is equivalent).
        as_published: how modules treat the padding. True, as in training: as in the published implementations, where
            padding takes part in some computations. False, as in evaluation unless `batch_invariant_eval=False`: the
            results of an image never depend on its padding.
    """

    def __init__(
        self,
        tensor: Tensor,
        image_sizes: list[tuple[int, int]],
        mask: Tensor | None,
        *,
        as_published: bool = False,
    ):
        self.tensor = tensor
        self.image_sizes = image_sizes
        self.mask = mask
        self.as_published = as_published

    @classmethod
    def from_images(
        cls, images: list[Tensor], size_divisibility: int = 1, *, as_published: bool = False
    ) -> "ImageBatch":
        """Pad `images`, each (C, h, w), to the largest height and width among them.

        Args:
            images: the images of the batch, with the same dtype and device.
            size_divisibility: the padded height and width are rounded up to a multiple of this.
            as_published: see `ImageBatch`.

        Raises:
            ValueError: when there are no images.
        """
        if not images:
            raise ValueError("a batch needs at least one image")
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        height, width = (
            math.ceil(max(side) / size_divisibility) * size_divisibility for side in zip(*sizes, strict=True)
        )
        if all(size == (height, width) for size in sizes):
            return cls(torch.stack(images), sizes, None, as_published=as_published)
        tensor = images[0].new_zeros(len(images), images[0].shape[0], height, width)
        for index, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
            tensor[index, :, :h, :w] = image
        return cls.of_padded(tensor, sizes, as_published=as_published)

    @classmethod
    def of_padded(
        cls, tensor: Tensor, image_sizes: list[tuple[int, int]], *, as_published: bool = False
    ) -> "ImageBatch":
        """Create a batch from a padded tensor (B, C, H, W) and the true sizes of its images."""
        batch, _, height, width = tensor.shape
        if all(size == (height, width) for size in image_sizes):
            return cls(tensor, image_sizes, None, as_published=as_published)
        mask = torch.ones(batch, height, width, dtype=torch.bool, device=tensor.device)
        for image_mask, (h, w) in zip(mask, image_sizes, strict=True):
            image_mask[:h, :w] = False
        return cls(tensor, image_sizes, mask, as_published=as_published)

    @classmethod
    def in_graph(cls, tensor: Tensor, image_sizes: Tensor | None) -> "ImageBatch":
        """Create a batch for tracing a graph, whose computations do not depend on the sizes of images.

        Args:
            tensor: (B, C, H, W).
            image_sizes: (B, 2) integers, the true height and width of each image; None when no image is ever padded.
                Padded batches are `as_published`, because a graph cannot process images of each size separately.
        """
        if image_sizes is None:
            return cls(tensor, [], None)
        height, width = tensor.shape[-2:]
        rows = torch.arange(height, device=tensor.device) >= image_sizes[:, :1]
        columns = torch.arange(width, device=tensor.device) >= image_sizes[:, 1:]
        return cls(tensor, [], rows[:, :, None] | columns[:, None, :], as_published=True)

    def mask_or_zeros(self) -> Tensor:
        """Return the mask, or (1, H, W) of False, which broadcasts over the batch, when no image is padded."""
        if self.mask is None:
            return torch.zeros(1, *self.tensor.shape[-2:], dtype=torch.bool, device=self.tensor.device)
        return self.mask

    def resampled(self, tensor: Tensor) -> "ImageBatch":
        """Return this batch at another resolution; the mask is sampled at the nearest cell above and to the left.

        Args:
            tensor: (B, C', H', W'), computed from the whole padded `self.tensor`.
        """
        (height, width), (new_height, new_width) = self.tensor.shape[-2:], tensor.shape[-2:]
        # Cell i samples pixel floor(i * H / H'), which is inside if it is below h: the first ceil(h * H' / H) cells.
        sizes = [(-(-h * new_height // height), -(-w * new_width // width)) for h, w in self.image_sizes]
        # A graph must not depend on the sizes of the images in a batch, so its mask may be all False.
        in_graph = torch.compiler.is_compiling() or not sizes
        whole = not in_graph and all(size == (new_height, new_width) for size in sizes)
        if self.mask is None or whole:
            return ImageBatch(tensor, sizes, None, as_published=self.as_published)
        rows, columns = (
            torch.arange(new, device=tensor.device) * old // new
            for old, new in ((height, new_height), (width, new_width))
        )
        mask = self.mask[:, rows[:, None], columns]
        return ImageBatch(tensor, sizes, mask, as_published=self.as_published)

    def __len__(self) -> int:
        return self.tensor.shape[0]
