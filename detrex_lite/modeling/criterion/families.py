"""Families of sets of predictions: the layers of one group of queries."""

import re


def family(name: str) -> str:
    """Return the name of a set of predictions without the layer's number: "" for "_0", "_dn" for "_dn_3"."""
    return re.sub(r"_\d+", "", name)
