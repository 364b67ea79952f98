"""Train or evaluate what a config describes.

python tools/train_net.py --config-file projects/detr/configs/detr_r50_300ep.py --num-gpus 8
python tools/train_net.py --config-file FILE --resume
python tools/train_net.py --config-file FILE --eval-only train.init_checkpoint=output/model_final.pth
python tools/train_net.py --config-file FILE --engine detectron2
"""

import argparse
import os
import signal

if __name__ == "__main__":

    def leave(number: int, frame: object) -> None:
        os.write(2, b"Interrupted before anything began.\n")
        os._exit(128 + number)

    signal.signal(signal.SIGINT, leave)  # while torch is imported, which takes seconds

# Before torch starts its threads. By default they wait for each other in long busy loops: beside a program that took
# one of two cores, steps on a CPU were 10 times slower than alone. Short ones cost nothing alone, and 4 times then.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from detrex_lite.engine import (
    clear_errors,
    default_argument_parser,
    device_of,
    end_when_interrupted,
    find_engine,
    launch,
    load_config,
)


def main(args: argparse.Namespace) -> None:
    with clear_errors(with_traceback=args.traceback):
        cfg = load_config(args)
        train, evaluate = find_engine(args.engine)
        if args.eval_only:
            evaluate(cfg)
        else:
            train(cfg, resume=args.resume)


if __name__ == "__main__":
    end_when_interrupted()
    arguments = default_argument_parser(__doc__).parse_intermixed_args()
    with clear_errors(with_traceback=arguments.traceback):
        launch(
            main,
            arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            device=device_of(load_config(arguments)),
            args=(arguments,),
        )
