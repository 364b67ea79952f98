"""The training loop: steps, what happens between them (hooks), optimizers, schedules and averaged weights."""
