"""Speed and size of models and operators: the measurements that `detrex-lite benchmark` prints.

The wheel does not contain this package: benchmarks need a clone of the repository.
"""

from .analysis import analyze_config, analyze_model
from .errors import BenchmarkError
from .models import ModelSettings, benchmark_models

__all__ = ["BenchmarkError", "ModelSettings", "analyze_config", "analyze_model", "benchmark_models"]
