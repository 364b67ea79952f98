"""Configs that several detectors share."""

if __name__ != "detrex_lite.configs":  # under a second name, all that is in here would exist a second time
    raise ImportError(f"not {__name__} but detrex_lite.configs: from detrex_lite.configs.common.train import train")
