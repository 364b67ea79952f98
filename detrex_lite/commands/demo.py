"""Drawing a data set, training a small detector on it, and showing the result."""

import argparse
import os
import shutil
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from omegaconf import DictConfig

from ..config import ConfigError, LazyConfig, instantiate, trust
from ..data import generate_shapes, read_image
from ..engine import clear_errors, train
from ..evaluation import format_table
from ..evaluation.coco_evaluator import write_metrics
from ..inference import Predictor
from ..visualization import SheetRow, contact_sheet, ground_truth

MARKER = "written_by_demo.txt"
QUICK_IMAGES = {"num_train": 32, "num_val": 12}
QUICK_OVERRIDES = (
    "train.max_iter=4",
    "train.max_epochs=null",
    "train.eval_period=0",
    "train.eval_epochs=null",
    "train.log_period=1",
    "dataloader.train.total_batch_size=8",
)
IMAGES_ON_SHEET = 12
SCORE_ON_SHEET = 0.35  # scores are low after training with focal loss


def run(args: argparse.Namespace) -> int:
    """Run the demo; see `detrex_lite.cli.demo`."""
    start = time.perf_counter()
    output = Path(os.path.expanduser(args.output))
    with clear_errors():
        trust(*args.trust)
        config = load_config(args.config_file, output, [*(QUICK_OVERRIDES if args.quick else ()), *args.opts])
        prepare_folder(output)
        print(f"Drawing the data set into {config.dataset.root} ...", flush=True)
        generate_shapes(config.dataset.root, **(QUICK_IMAGES if args.quick else {}))
        results = train(config)
    write_metrics(output / "metrics.json", results)
    num_held_out = draw_contact_sheet(config, output)

    kind = "box and mask" if "segm" in results else "box"
    print(f"\nCOCO {kind} average precision on {num_held_out} held-out images, in percent:\n")
    print(format_table(results))
    print(f"\nIn {output}:")
    for name, content in CONTENTS.items():
        print(f"  {name:<30}{content}")
    print(f"\nTotal time: {timedelta(seconds=round(time.perf_counter() - start))}")
    return 0


CONTENTS = {
    "contact_sheet.png": "ground truth and detections on held-out images",
    "report.html": "a page about the run: losses, AP, learning rate, sample detections",
    "metrics.json": "the numbers above",
    "metrics.jsonl": "losses, rates and AP as they developed",
    "model_final.pth": "the trained model (load it with detrex-lite predict or detrex_lite.Predictor)",
    "config.yaml": "the whole config, as it was run",
    "log.txt": "the log",
    "evaluation/predictions.json": "the detections on all held-out images, as COCO results",
    "shapes/": "the data set in COCO format",
}


def load_config(config_file: str, output: Path, overrides: Sequence[str]) -> DictConfig:
    """The config, with its data set and its output folder below `output`."""
    config = LazyConfig.load(config_file)
    folders = [f"dataset.root={output / 'shapes'}", f"train.output_dir={output}"]
    return LazyConfig.apply_overrides(config, [*overrides, *folders])


def prepare_folder(output: Path) -> None:
    """Create an empty folder that is marked as the demo's; a folder of an earlier demo is deleted first.

    Raises:
        ConfigError: when the folder has other contents, which are not changed.
    """
    if output.exists():
        if not output.is_dir() or (any(output.iterdir()) and not (output / MARKER).is_file()):
            raise ConfigError(f"{output} was not written by this demo: choose another folder with --output")
        shutil.rmtree(output)
    output.mkdir(parents=True)
    (output / MARKER).write_text("`detrex-lite demo` wrote this folder, and replaces it when it runs again.\n")


def draw_contact_sheet(config: DictConfig, output: Path) -> int:
    """Draw the first held-out images; returns the number of all held-out images."""
    dataset = instantiate(config.dataloader.test.dataset)
    predictor = Predictor(
        config, output / "model_final.pth", device=config.train.device, score_threshold=SCORE_ON_SHEET
    )
    records = [dataset[index] for index in range(min(IMAGES_ON_SHEET, len(dataset)))]
    rows = [
        SheetRow(
            image=read_image(record["file_name"]),
            ground_truth=ground_truth(record),
            detections=predictor(record["file_name"]),
            caption=Path(record["file_name"]).name,
        )
        for record in records
    ]
    contact_sheet(
        rows,
        output / "contact_sheet.png",
        class_names=dataset.class_names,
        score_threshold=SCORE_ON_SHEET,
        columns=3,
        panel_size=224,
    )
    return len(dataset)
