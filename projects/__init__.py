"""The detectors, a folder each."""

if __name__ != "detrex_lite.projects":  # under a second name, all that is in here would exist a second time
    raise ImportError(f"not {__name__} but detrex_lite.projects: from detrex_lite.projects.detr.modeling import DETR")
