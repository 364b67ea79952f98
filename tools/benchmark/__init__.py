"""How fast and how big models and operators are; what `detrex-lite benchmark` prints.

The wheel does without: measuring is for those who have the repository.
"""

from .analysis import analyze_config, analyze_model
from .errors import BenchmarkError
from .models import ModelSettings, benchmark_models

__all__ = ["BenchmarkError", "ModelSettings", "analyze_config", "analyze_model", "benchmark_models"]
