"""The training loop: steps, hooks between them, optimizers, schedules and averaged weights."""
