"""Maps names of settings in other programs to those of this one, so that errors can suggest the right key or flag.

The names are those of ultralytics, RF-DETR, mmdetection, detectron2, transformers and timm, in lower case. Values that
begin with -- are flags of `detrex-lite train`; others are keys of a config, and the first that the config has is used.
"""

_EPOCHS = ("train.max_epochs",)
_STEPS = ("train.max_iter",)
_PATIENCE = ("train.patience",)
_BATCH = ("dataloader.train.total_batch_size",)
_ACCUMULATION = ("train.accumulate_steps",)
_IMAGE_SIZE = (
    "dataloader.image_size",
    "dataloader.train.mapper.augmentation.short_edge_lengths",
    "dataloader.train.mapper.augmentation.size",
    "dataloader.train.mapper.augmentation.image_size",
)
_LEARNING_RATE = ("optimizer.lr",)
_BACKBONE_RATE = ("optimizer.params.backbone_lr_factor",)
_SCHEDULE = ("lr_multiplier",)
_WARMUP = ("lr_multiplier.warmup_length", "lr_multiplier.warmup_epochs", "lr_multiplier")
_CLIPPING = ("train.clip_grad.params.max_norm",)
_WORKERS = ("dataloader.train.num_workers",)
_OUTPUT = ("train.output_dir",)
_WEIGHTS = ("train.init_checkpoint",)
_DATA = ("--data", "dataset.root")
_CLASSES = ("model.num_classes",)
_PRECISION = ("train.amp.enabled",)
_AVERAGE = ("train.model_ema.enabled",)
_EVALUATION = ("train.eval_epochs",)
_CHECKPOINTS = ("train.checkpoint_epochs",)
_RECOMPUTATION = ("train.activation_checkpointing",)
_AUGMENTATION = ("dataloader.train.mapper.augmentation",)

FOREIGN_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("epoch", "epochs", "num_epochs", "max_epoch", "total_epochs", "num_train_epochs"), _EPOCHS),
    **dict.fromkeys(("iter", "iters", "iterations", "max_iters", "num_iterations", "steps", "max_steps"), _STEPS),
    **dict.fromkeys(("patience", "early_stopping", "early_stop", "early_stopping_patience"), _PATIENCE),
    **dict.fromkeys(("batch", "batch_size", "batchsize", "bs", "ims_per_batch", "samples_per_gpu"), _BATCH),
    **dict.fromkeys(("per_device_train_batch_size", "train_batch_size"), _BATCH),
    **dict.fromkeys(("accumulate", "grad_accum_steps", "gradient_accumulation_steps", "nbs"), _ACCUMULATION),
    **dict.fromkeys(("imgsz", "img_size", "image_size", "img_scale", "resolution", "input_size", "size"), _IMAGE_SIZE),
    **dict.fromkeys(("lr", "lr0", "learning_rate", "base_lr"), _LEARNING_RATE),
    **dict.fromkeys(("lr_encoder", "lr_backbone", "backbone_lr"), _BACKBONE_RATE),
    **dict.fromkeys(("lrf", "cos_lr", "lr_scheduler", "scheduler", "lr_drop", "lr_scheduler_type"), _SCHEDULE),
    **dict.fromkeys(("warmup", "warmup_epochs", "warmup_steps", "warmup_iters", "warmup_ratio"), _WARMUP),
    **dict.fromkeys(("weight_decay", "wd"), ("optimizer.weight_decay",)),
    **dict.fromkeys(("clip_max_norm", "max_grad_norm", "grad_clip", "clip_grad_norm"), _CLIPPING),
    **dict.fromkeys(("workers", "num_workers", "dataloader_num_workers", "workers_per_gpu"), _WORKERS),
    **dict.fromkeys(("project", "save_dir", "output", "output_dir", "out", "outdir", "work_dir", "workdir"), _OUTPUT),
    **dict.fromkeys(("weights", "pretrained", "pretrain_weights", "checkpoint", "load_from", "init"), _WEIGHTS),
    **dict.fromkeys(("data", "data_root", "data_dir", "dataset_dir", "coco_path", "data_path"), _DATA),
    **dict.fromkeys(("nc", "classes", "num_labels", "num_class", "num_classes"), _CLASSES),
    **dict.fromkeys(("amp", "fp16", "bf16", "half", "mixed_precision", "precision"), _PRECISION),
    **dict.fromkeys(("ema", "use_ema", "model_ema"), _AVERAGE),
    **dict.fromkeys(("val_interval", "eval_interval", "val_period", "evaluation_interval"), _EVALUATION),
    **dict.fromkeys(("save_period", "checkpoint_interval", "save_interval", "save_steps"), _CHECKPOINTS),
    **dict.fromkeys(("gradient_checkpointing", "grad_checkpointing", "with_cp", "use_checkpoint"), _RECOMPUTATION),
    **dict.fromkeys(("augment", "augmentation", "augmentations", "transforms", "fliplr", "mosaic"), _AUGMENTATION),
    **dict.fromkeys(("log_interval", "log_every", "logging_steps", "print_freq"), ("train.log_period",)),
    **dict.fromkeys(("random_seed", "manual_seed", "seed"), ("train.seed",)),
    **dict.fromkeys(("cuda", "device"), ("train.device",)),
    **dict.fromkeys(("gpus", "n_gpus", "num_gpus"), ("--num-gpus",)),
    "resume": ("--resume",),
    "resume_from": ("--resume",),
    "queries": ("model.num_queries",),
    "num_queries": ("model.num_queries",),
    "freeze": ("model.backbone.freeze_at",),
    "wandb": ("train.wandb.enabled",),
    "mlflow": ("train.mlflow.enabled",),
    "deterministic": ("train.deterministic",),
    "compile": ("train.compile",),
    "optimizer": ("optimizer._target_",),
}


def known_here(name: str) -> tuple[str, ...]:
    """The keys and flags for the setting that other programs call `name`; empty when the name is not in the table.

    Case and leading dashes are ignored, and dashes count as underscores: `--Batch-Size` is `batch_size`.
    """
    return FOREIGN_NAMES.get(name.lower().lstrip("-").replace("-", "_"), ())
