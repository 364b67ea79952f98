"""Runs everything up to the first training step, and draws the first batches as pictures."""

import logging
from itertools import islice
from pathlib import Path

import torch
from omegaconf import DictConfig

from ...visualization import batch_sheet
from ..build import build_optimizer
from ..memory_full import describe_batch
from ..preflight import try_evaluation
from .trial import autocast, trial

logger = logging.getLogger(__name__)

FOLDER = "dry_run"


def dry_run(cfg: DictConfig, *, num_batches: int = 2) -> list[Path]:
    """Build everything that training needs, log a summary, and draw the first batches.

    A training batch goes through the model and its losses, and a validation batch through the evaluator, so that errors
    of the first step and the first evaluation occur here. Nothing is trained. The only files are the pictures in
    `train.output_dir`/dry_run, which show the images that the model gets, with boxes and masks after augmentation.

    Args:
        cfg: a config as `train` takes it.
        num_batches: the number of batches to draw.

    Returns:
        The paths of the pictures.

    Raises:
        ConfigError, CheckpointError, DatasetError: as for `train`.
    """
    with trial(cfg) as run:
        run.warn_of_regrets()
        logger.info("%s", run.summary(build_optimizer(run.cfg.optimizer, run.model)))
        batches = list(islice(run.train_loader, num_batches))
        with torch.no_grad(), autocast(run):
            losses = run.model.train()(batches[0])
        total = sum(float(loss) for loss in losses.values())
        logger.info("The first batch, %s, has a loss of %.3f.", describe_batch(batches[0]), total)
        if run.test_loader is not None:
            try_evaluation(run.model, run.test_loader, run.evaluator)
            logger.info("A batch of validation was detected and evaluated.")
        pictures = [
            batch_sheet(batch, run.output_dir / FOLDER / f"batch_{number}.jpg", class_names=run.class_names)
            for number, batch in enumerate(batches)
        ]
        logger.info("Nothing was trained. Pictures of the first batches: %s", ", ".join(map(str, pictures)))
    return pictures
