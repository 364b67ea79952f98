"""`detrex-lite train`."""

import argparse
import os

from ..errors import did_you_mean
from .arguments import add_process_arguments, add_traceback_argument, add_trust_argument, split_words
from .models import AUTO, is_config_file, shipped_names
from .parser import number, whole_number
from .trials import add_trial_arguments, check_trial

NAME = "train"
SUMMARY = "Train a detector on a folder of images, or as a config describes."
DESCRIPTION = """
MODEL is a project (dino, dfine, ...), a model (dino_small, rtdetrv2_r18, ...), a training (dino_r50_4scale_36ep, ...),
a published checkpoint, whose config is used, a config file, or `auto`, which chooses a model for the device.
projects/README.md lists projects and models, `detrex-lite zoo list` lists checkpoints.

With --data, epochs, batch size, image size and learning rate are derived from the images, the device and the published
training. They are printed with their reasons before training begins, and each has an option. The folder may have COCO
JSON, Roboflow, YOLO, Pascal VOC or CSV annotations; without a validation set, one is drawn from the images.

KEY=VALUE overrides change any other key of the config: train.patience=10 model.num_queries=50 +new.key=1.
`detrex-lite config MODEL --data FOLDER` prints the config.

exit status: 0 when the run is finished, 1 when it failed (out of memory, the loss is not finite, images were not learnt
with --overfit), 2 when arguments, config, data or weights are wrong, 128 plus the signal's number when a signal ended
the run (its state is saved: continue with --resume). See docs/training.md.
"""
EXAMPLES = (
    ("a detector for your images, from published weights", "dino --data FOLDER --fine-tune"),
    ("a small one, from scratch, on a CPU", "dino_small --data FOLDER --epochs 100"),
    ("as a config describes, on 8 GPUs", "--config-file projects/dino/configs/dino_r50_4scale_12ep.py --num-gpus 8"),
)
RUN = "detrex_lite.commands.train.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs="*", metavar="MODEL | KEY=VALUE", help="the model (see below), and overrides of its config"
    )
    parser.add_argument("--config-file", metavar="FILE", help="a LazyConfig .py or .yaml file, instead of MODEL")
    add_data_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint instead of training")
    add_trial_arguments(parser)
    add_process_arguments(parser)
    add_trust_argument(parser)
    add_traceback_argument(parser)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `detrex_lite.commands.configs.plan_of`, other than the model and overrides."""
    parser.add_argument("--data", metavar="FOLDER", help="your images with annotations, in any supported layout")
    parser.add_argument(
        "--fine-tune",
        nargs="?",
        const=AUTO,
        metavar="NAME | FILE",
        help="start from the weights of a published checkpoint or a file; without a value, from a checkpoint of MODEL",
    )
    parser.add_argument("--epochs", type=whole_number(1), metavar="N", help="passes over the training images")
    parser.add_argument("--batch", type=whole_number(1), metavar="N", help="images per step, over all devices")
    parser.add_argument(
        "--size", type=whole_number(32), metavar="PIXELS", help="side, or shorter side, of resized images"
    )
    parser.add_argument("--lr", type=number(above=0), metavar="RATE", help="learning rate")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--workers", type=whole_number(0), metavar="N", help="processes that load images")
    parser.add_argument("--seed", type=whole_number(0), metavar="N", help="seed of all random numbers")
    parser.add_argument("--output", metavar="DIR", help="folder of the run")


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    split_words(parser, args)
    check_trial(parser, args)
    check_model(parser, args)


def check_model(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Set `args.model` to an existing name or file, and report data and weights that do not exist."""
    if args.model and args.config_file:
        parser.error(f"{args.model} and --config-file {args.config_file} both name a model: omit one of them")
    args.model = args.model or args.config_file
    if args.model is None and shipped_names().is_model_only(args.fine_tune):
        args.model, args.fine_tune = args.fine_tune, AUTO  # as in `--fine-tune dino`, where dino is the model
    if args.model is None and args.fine_tune in (None, AUTO):
        parser.error("no model is given: name one, as in `detrex-lite train dino --data FOLDER`, or give --config-file")
    check_data(parser, args)
    check_weights(parser, args)
    if args.model is None or is_config_file(args.model):
        return
    if os.path.isdir(args.model):
        parser.error(f"{args.model} is a folder; give a folder of images as --data {args.model}")
    names = shipped_names()
    if args.model != AUTO and names.config_of(args.model) is None and args.model not in names.checkpoints:
        hint = did_you_mean(args.model, names.all(), otherwise=f"; projects: {', '.join(sorted(names.projects))}")
        parser.error(f"there is no model {args.model!r}{hint}")
    if args.model == AUTO and args.data is None:
        parser.error("auto chooses a model for your images: name their folder by --data FOLDER")


def check_weights(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Report a file of `--fine-tune` that does not exist, unless it can be the name of a published checkpoint."""
    name = args.fine_tune or ""
    is_file = name.endswith((".pth", ".pt", ".pkl", ".safetensors")) or os.sep in name
    if is_file and not os.path.exists(os.path.expanduser(name)):
        parser.error(f"--fine-tune {name}: there is no such file (looked from {os.getcwd()})")


def check_data(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Report a folder of `--data` that does not exist."""
    if args.data is not None and not os.path.exists(os.path.expanduser(args.data)):
        folder = os.path.dirname(os.path.expanduser(args.data)) or "."
        neighbours = [os.path.join(folder, name) for name in os.listdir(folder)] if os.path.isdir(folder) else []
        hint = did_you_mean(args.data, [name.removeprefix("./") for name in neighbours], otherwise="")
        parser.error(f"--data {args.data}: there is no such folder (looked from {os.getcwd()}){hint}")
