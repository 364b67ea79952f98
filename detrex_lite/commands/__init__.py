"""What the commands of `detrex_lite.cli` run: each module has `run`, from parsed arguments to the exit status."""
