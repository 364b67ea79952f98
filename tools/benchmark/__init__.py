"""Speed and size of models and operators: the measurements that `detrex-lite benchmark` prints.

The wheel does not contain this package: benchmarks need a clone of the repository.
"""
