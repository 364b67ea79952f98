"""Images of rectangles, and a predictor that detects exactly their visible parts, without a model."""

import numpy as np

from detrex_lite.inference.base import ImagePredictor
from detrex_lite.inference.exported import Detections, FoundBoxes
from detrex_lite.inference.views import scaled_size


def draw(size, objects):
    """An image of (height, width) with rectangles (x0, y0, x1, y1, class), each in a different colour."""
    pixels = np.zeros((*size, 3), np.uint8)
    for number, (x0, y0, x1, y1, class_index) in enumerate(objects, 1):
        pixels[y0:y1, x0:x1] = (class_index + 1, number % 256, number // 256)
    return pixels


def random_objects(generator, size, number, largest, num_classes):
    """Random rectangles that do not touch each other, in the format of `draw`."""
    objects, occupied = [], np.zeros(size, bool)
    while len(objects) < number:
        height, width = generator.integers(4, largest, 2)
        y, x = generator.integers(0, size[0] - height), generator.integers(0, size[1] - width)
        if occupied[max(0, y - 1) : y + height + 1, max(0, x - 1) : x + width + 1].any():
            continue
        occupied[y : y + height, x : x + width] = True
        objects.append((int(x), int(y), int(x + width), int(y + height), int(generator.integers(num_classes))))
    return objects


class RectanglePredictor(ImagePredictor[Detections]):
    """Detects each rectangle of `draw`.

    Args:
        smallest: rectangles with fewer visible pixels in the resized view are missed.
        shift: boxes are shifted to the right by this number of pixels.
        score: the score of all objects.
        resized: (height, width) to which views are resized; None for no resizing.
    """

    def __init__(
        self, *, num_classes=3, smallest=1, shift=0.0, score=0.9, resized=None, batch_size=4, with_masks=False
    ):
        super().__init__(score_threshold=0.5, batch_size=batch_size, image_format="RGB")
        self.smallest, self.shift, self.score, self.resized = smallest, shift, score, resized
        self.with_masks = with_masks
        self.set_classes([f"class {index}" for index in range(num_classes)])
        self.view_sizes = []  # (height, width) of each view after resizing

    def read(self, image):
        return image, image.shape[:2]

    def resize(self, pixels, scale=1.0):
        height, width = self.resized or pixels.shape[:2]
        if scale != 1:
            height, width = scaled_size((height, width), scale)
        rows = np.arange(height) * pixels.shape[0] // height
        columns = np.arange(width) * pixels.shape[1] // width
        return pixels[rows][:, columns]

    def crop(self, pixels, frame):
        x0, y0, x1, y1 = frame
        return pixels[y0:y1, x0:x1]

    def mirror(self, pixels):
        return pixels[:, ::-1]

    def make_result(self, size, arrays):
        result = Detections(size, FoundBoxes(arrays["boxes"]), arrays["scores"], arrays["classes"])
        return WithMasks(result, arrays["masks"]) if "masks" in arrays else result

    def detect(self, batch, thresholds=None):
        limits = self.thresholds() if thresholds is None else thresholds
        return [self.find_rectangles(record["image"], (record["height"], record["width"]), limits) for record in batch]

    def find_rectangles(self, pixels, size, limits):
        self.view_sizes.append(pixels.shape[:2])
        boxes, classes, masks = [], [], []
        for colour in np.unique(pixels.reshape(-1, 3), axis=0):
            mask = (pixels == colour).all(-1)
            ys, xs = np.nonzero(mask)
            if not colour.any() or len(xs) < self.smallest:
                continue
            y, x = size[0] / pixels.shape[0], size[1] / pixels.shape[1]
            boxes.append([xs.min() * x, ys.min() * y, (xs.max() + 1) * x, (ys.max() + 1) * y])
            classes.append(int(colour[0]) - 1)
            masks.append(mask)
        boxes = np.array(boxes, np.float32).reshape(-1, 4) + np.array([self.shift, 0, self.shift, 0], np.float32)
        scores, classes = np.full(len(boxes), self.score, np.float32), np.array(classes, np.int64)
        passed = scores >= limits[classes]
        arrays = {"boxes": boxes[passed], "scores": scores[passed], "classes": classes[passed]}
        if self.with_masks:
            arrays["masks"] = np.array(masks, bool).reshape(-1, *size)[passed]
        return self.make_result(size, arrays).described(**self.image_info(scores, classes)._asdict())


class WithMasks:
    """Detections with masks; the `Detections` of exported files have none."""

    def __init__(self, result, masks):
        self.result, self.masks = result, masks

    info = property(lambda self: self.result.info)

    def __len__(self):
        return len(self.result)

    def described(self, **info):
        return WithMasks(self.result.described(**info), self.masks)

    def to_numpy(self):
        return {**self.result.to_numpy(), "masks": self.masks}


def detected_rectangles(result):
    """The detected rectangles, sorted, in the format of `draw`."""
    arrays = result.to_numpy()
    rows = zip(arrays["boxes"].tolist(), arrays["classes"].tolist(), strict=True)
    return sorted((*box, index) for box, index in rows)
