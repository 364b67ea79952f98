"""Query recollection: in training, layers also decode the results of earlier layers (Chen et al., CVPR 2023).

A schedule lists the stages that each layer decodes: stage 0 is the initial queries of the decoder, and stage k the
results of the k-th layer. A layer returns one set of queries for each input set, so the number of sets grows from layer
to layer. `[[0], [1], [2]]` is a decoder without recollection.
"""

from collections.abc import Sequence


def selective_recollection(num_layers: int, num_stages: int = 2) -> list[list[int]]:
    """Return the paper's schedule: each layer decodes the last stages before it.

    With 2 stages, six layers take 1, 2, 3, 5, 8 and 13 sets.

    Args:
        num_layers: number of decoder layers.
        num_stages: number of stages; `num_layers` for all stages, the paper's dense recollection.

    Raises:
        ValueError: when `num_stages` is below 1.
    """
    if num_stages < 1:
        raise ValueError(f"num_stages={num_stages} is below 1: a layer decodes at least the stage before it")
    return [list(range(max(layer + 1 - num_stages, 0), layer + 1)) for layer in range(num_layers)]


def check_schedule(schedule: Sequence[Sequence[int]], num_layers: int) -> list[list[int]]:
    """Validate a schedule and convert it to lists.

    Raises:
        ValueError: when it does not have one list per layer, of stages in ascending order that end with the stage
            directly before the layer, which evaluation decodes.
    """
    if len(schedule) != num_layers:
        raise ValueError(
            f"recollection has lists of stages for {len(schedule)} layers, but the decoder has {num_layers} layers: "
            "give one list for each layer, or selective_recollection(num_layers)"
        )
    for layer, stages in enumerate(schedule):
        selected = list(stages)
        if not selected or selected != sorted(set(selected)) or selected[0] < 0 or selected[-1] != layer:
            raise ValueError(
                f"recollection[{layer}] is {selected}: list stages in ascending order, 0 for the initial queries and k "
                f"for the results of the k-th layer, ending with {layer}, the stage directly before the layer"
            )
    return [list(stages) for stages in schedule]
