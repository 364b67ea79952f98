"""The output of a run, in its folder and on the terminal: checkpoints of its state, metrics, log, summary, report."""
