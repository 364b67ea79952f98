"""Parameter names in detrex, and the paths of projects' configs."""

import re
from pathlib import Path

import detrex_lite.projects

PROJECTS = Path(next(iter(detrex_lite.projects.__path__)))


def apply_rules(name, rules):
    """Apply the replacements to `name` in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def under_detrex_names(state, label_embedding="denoising_generator.label_encoder."):
    """Rename the weights of a detector with deformable attention to detrex's names, with the heads twice."""
    rules = [
        (r"^denoising\.label_embedding\.", label_embedding),
        (r"^heads\.(class|bbox)_embed\.", r"\1_embed."),
        (r"^heads\.norm\.", "transformer.decoder.norm."),
        (r"^queries\.boxes\.", "refpoint_embed."),
        (r"^queries\.content\.", "transformer.tgt_embed." if "label_enc." in label_embedding else "tgt_embed."),
        (r"^queries\.proposals\.", "transformer."),
        (r"(\.decoder\.layers\.\d+\.attentions\.0)\.", r"\1.attn."),
        (r"(\.ffns\.0\.layers\.0)\.", r"\1.0."),
        (r"^(neck\.\w+\.\d+)\.0\.", r"\1.conv."),
        (r"^(neck\.\w+\.\d+)\.1\.", r"\1.norm."),
    ]
    renamed = {}
    for name, value in state.items():
        name = apply_rules(name, rules)
        renamed[name] = value
        if name.startswith(("class_embed.", "bbox_embed.")):
            renamed[f"transformer.decoder.{name}"] = value
    assert not [name for name in renamed if name.startswith(("heads.", "queries."))]
    return renamed
