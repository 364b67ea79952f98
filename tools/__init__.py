"""Scripts: `python tools/train_net.py` or, from any folder, `python -m detrex_lite.tools.train_net`."""

if __name__ != "detrex_lite.tools":  # under a second name, all that is in here would exist a second time
    raise ImportError(f"not {__name__} but detrex_lite.tools: python -m detrex_lite.tools.train_net")
