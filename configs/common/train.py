"""Settings of the training. The engine reads every key; an unknown key is an error."""

import torch

train = dict(
    # The output folder. It is an error if it contains a run, unless this run is resumed.
    output_dir="./output",
    # Weights to start from (fine-tuning; class heads and queries of other shapes are re-initialised and listed) or to
    # evaluate: a local .pth, .pkl or .safetensors file. "" keeps the initial weights of the model.
    init_checkpoint="",
    # Name prefixes of parts of the model that init_checkpoint lacks: they keep their initial weights.
    init_new_parts=[],
    # Allow that file to execute code when it is loaded, as old pickle files require. Only for trusted files; in a
    # Python config or on the command line, not in YAML.
    trust_init_checkpoint=False,
    # Further packages whose classes and functions YAML configs and overrides may call (SECURITY.md). In a Python config
    # only; the command line has --trust.
    trusted=[],
    # Your own hooks (`detrex_lite.engine.Hook`) as calls: [L(MyHook)(...)]. They run before each step is logged.
    hooks=[],
    device="cuda" if torch.cuda.is_available() else "cpu",
    # Seed of Python, NumPy and torch (each process adds its rank) and of the order of the data.
    seed=0,
    # The length, in optimizer steps, in epochs, or both; the shorter one applies. The default converts max_epochs to
    # steps for other engines, which do not count epochs; replace it by a number of steps.
    max_iter="${detrex_lite.call:detrex_lite.engine.epochs.default_max_iter}",
    max_epochs=None,
    # Batches per optimizer step; their losses are averaged, as if they were one larger batch.
    accumulate_steps=1,
    # Mixed precision. bf16 has the range of float32; fp16 is for GPUs without it and scales the loss.
    amp=dict(enabled=False, dtype="bf16"),
    clip_grad=dict(enabled=False, params=dict(max_norm=0.1, norm_type=2.0)),
    # An exponential moving average of the weights, saved as `ema`. The decay increases over `warmup` steps.
    # use_in_eval: evaluate the average instead of the model, also with --eval-only.
    # restart: at the start of this epoch (null: never), when strong augmentation has ended, training returns to the
    # best checkpoint and `decay` takes this value. From then on, each evaluation without improvement lowers it by
    # `decay_step` and returns to the best checkpoint again (D-FINE, DEIM).
    model_ema=dict(
        enabled=False,
        decay=0.999,
        warmup=2000,
        use_in_eval=True,
        restart=dict(epoch=None, decay=0.9999, decay_step=1e-4),
    ),
    # Several processes (DistributedDataParallel); docs/distributed.md has more.
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    # Tell DistributedDataParallel that all steps use the same parameters in the same way, so that it skips its checks.
    static_graph=False,
    # Compute batch norm statistics over the batches of all processes; GPUs only.
    sync_batch_norm=False,
    # Instead of DistributedDataParallel, shard weights, gradients and optimizer state over the processes (FSDP2), for
    # backbones that need more memory than a GPU has.
    fsdp=False,
    # Recompute the activations of transformer layers in the backward pass instead of storing them: saves memory.
    activation_checkpointing=False,
    # On a CPU, replace blocks of the model by faster ones with the same results (detrex_lite.ops.cpu.accelerate).
    accelerate_cpu=True,
    # Use deterministic algorithms where torch has them, and log the operators that have none. Slower on GPUs.
    deterministic=False,
    # The interval between checkpoints, in steps (and `checkpoint_epochs`; the shorter one applies), and how many are
    # kept in addition to model_best.pth and model_final.pth.
    checkpointer=dict(period=5000, max_to_keep=3),
    checkpoint_epochs=None,
    # The interval between evaluations, in steps (0: only at the end) and in epochs; the shorter one applies.
    eval_period=5000,
    eval_epochs=None,
    # The metric that selects model_best.pth; higher is better. None: no model_best.pth.
    best_metric="bbox/AP",
    # Early stopping: training ends after this many evaluations in a row none of which improved best_metric. None: no
    # early stopping.
    patience=None,
    # The interval between lines in the log and in metrics.jsonl, in steps; a line has the means over the interval.
    log_period=20,
    # Let cuDNN search for the fastest kernels: useful if all images have the same size.
    cudnn_benchmark=False,
    # Compile the model for training with torch.compile: takes some minutes at the start, once for all image sizes.
    # For GPUs: on a CPU it needs a C++ compiler, and steps are slower than without it.
    compile=False,
    # Also log to Weights & Biases; `params` are the arguments of wandb.init.
    wandb=dict(enabled=False, params=dict(project="detrex_lite")),
    # Also log to MLflow. `tracking_uri` is a server or a database (sqlite:///mlflow.db), null the setting of the
    # environment; `params` are the arguments of mlflow.start_run.
    mlflow=dict(enabled=False, tracking_uri=None, experiment="detrex_lite", params=dict()),
    # Also write the metrics to metrics.csv.
    csv=False,
)
