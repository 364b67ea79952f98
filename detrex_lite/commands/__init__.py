"""The commands of `detrex_lite.cli`: `run` of each module takes parsed arguments and returns the exit status."""
