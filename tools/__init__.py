"""Scripts: `python tools/train_net.py` or, from any folder, `python -m detrex_lite.tools.train_net`."""

if __name__ != "detrex_lite.tools":  # importing the package under a second name would duplicate every module in it
    raise ImportError(f"not {__name__} but detrex_lite.tools: python -m detrex_lite.tools.train_net")
