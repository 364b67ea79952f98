"""How to train. Every key is read by the engine; another key here is an error."""

import torch

train = dict(
    # Where everything is written. A folder that holds a run is refused unless it is resumed.
    output_dir="./output",
    # Weights to start from (fine-tuning; class heads and queries of other shapes begin anew and are listed) or to
    # evaluate: a local .pth, .pkl or .safetensors file. "" starts from the model's own initialisation.
    init_checkpoint="",
    # Beginnings of names of parts that the model has and the detector of init_checkpoint had not: they begin anew.
    init_new_parts=[],
    # Allow that file to execute code while it is read, as old pickle files must. Only for files you trust; in a Python
    # config or on the command line, not in YAML.
    trust_init_checkpoint=False,
    # Further packages of which YAML configs and overrides may call parts (SECURITY.md): in a Python config only; the
    # command line has --trust.
    trusted=[],
    # Hooks of your own (`detrex_lite.engine.Hook`) as calls: [L(MyHook)(...)]. They run before the log of each step.
    hooks=[],
    device="cuda" if torch.cuda.is_available() else "cpu",
    # Of Python's, NumPy's and torch's random numbers (each process adds its rank) and of the data's order.
    seed=0,
    # The length: in optimizer steps, in passes over the training set, or both, and then the shorter counts. What stands
    # here gives other engines, which know no epochs, the steps of max_epochs; a number is set in its place.
    max_iter="${detrex_lite.call:detrex_lite.engine.epochs.default_max_iter}",
    max_epochs=None,
    # Batches per optimizer step; their losses are averaged, as if they were one larger batch.
    accumulate_steps=1,
    # Mixed precision. bf16 has the range of float32; fp16 is for GPUs without it and scales the loss.
    amp=dict(enabled=False, dtype="bf16"),
    clip_grad=dict(enabled=False, params=dict(max_norm=0.1, norm_type=2.0)),
    # An exponential moving average of the weights, saved as `ema`. The decay grows over `warmup` steps.
    # use_in_eval: evaluate the average rather than the model, here and with --eval-only.
    # restart: at the start of an epoch (null: never), when strong augmentation has ended, training goes back to the
    # best checkpoint and the decay becomes this one. Each evaluation since that is no better lowers it by a step and
    # goes back again (D-FINE, DEIM).
    model_ema=dict(
        enabled=False,
        decay=0.999,
        warmup=2000,
        use_in_eval=True,
        restart=dict(epoch=None, decay=0.9999, decay_step=1e-4),
    ),
    # Several processes (DistributedDataParallel); docs/distributed.md has more.
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    # Promise DistributedDataParallel that all steps use the same parameters in the same way: it then need not look.
    static_graph=False,
    # Statistics of batch norms from the batches of all processes; GPUs only.
    sync_batch_norm=False,
    # In the place of DistributedDataParallel: each process keeps a part of the weights, gradients and optimizer state
    # (FSDP2), for backbones that need more memory than a GPU has.
    fsdp=False,
    # Compute what is inside transformer layers again in the backward pass instead of storing it: takes less memory.
    activation_checkpointing=False,
    # On a CPU, exchange blocks of the model for faster ones with the same results (detrex_lite.ops.cpu.accelerate).
    accelerate_cpu=True,
    # Take deterministic algorithms where torch has them, and log which operators have none. Slower on GPUs.
    deterministic=False,
    # Checkpoints every so many steps (and `checkpoint_epochs`: the shorter counts), and how many are kept.
    # model_best.pth and model_final.pth are kept besides.
    checkpointer=dict(period=5000, max_to_keep=3),
    checkpoint_epochs=None,
    # Evaluation every so many steps (0: at the end only) and every so many epochs: the shorter counts.
    eval_period=5000,
    eval_epochs=None,
    # The result by which model_best.pth is chosen; more is better. None: there is no model_best.pth.
    best_metric="bbox/AP",
    # Early stopping: training ends after so many evaluations in a row of which none was better by best_metric than the
    # best before them. None: it goes on to its end.
    patience=None,
    # A line in the log and in metrics.jsonl every so many steps: the means since the last one.
    log_period=20,
    # Let cuDNN search for the fastest kernels: pays where all images have one size.
    cudnn_benchmark=False,
    # Compile the model for training with torch.compile: takes some minutes at the start, once for images of all sizes.
    # For GPUs: on a CPU it needs a C++ compiler, and steps take longer than without.
    compile=False,
    # Log to Weights & Biases too; `params` are the arguments of wandb.init.
    wandb=dict(enabled=False, params=dict(project="detrex_lite")),
    # Log to MLflow too. `tracking_uri` is a server or a database (sqlite:///mlflow.db), null what the environment says;
    # `params` are the arguments of mlflow.start_run.
    mlflow=dict(enabled=False, tracking_uri=None, experiment="detrex_lite", params=dict()),
    # Write the numbers to metrics.csv too.
    csv=False,
)
