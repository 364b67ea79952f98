"""What a run leaves in its folder and on the terminal: checkpoints with its state, metrics, log, summary, report."""
