"""Query recollection: in training, layers decode earlier results as well (Chen et al., CVPR 2023).

A schedule says what each layer decodes: for each layer a list of stages, where stage 0 is the queries that a decoder
begins with, and stage k the results of the k-th layer. A layer gives one set of queries for each set that it takes, so
that sets become more from layer to layer. `[[0], [1], [2]]` is a decoder without recollection.
"""

from collections.abc import Sequence


def selective_recollection(num_layers: int, num_stages: int = 2) -> list[list[int]]:
    """The paper's schedule: each layer takes the stages directly before it.

    With 2 stages, six layers take 1, 2, 3, 5, 8 and 13 sets.

    Args:
        num_layers: of the decoder.
        num_stages: how many; `num_layers` for all that there are, the paper's dense recollection.

    Raises:
        ValueError: when `num_stages` is below 1.
    """
    if num_stages < 1:
        raise ValueError(f"num_stages={num_stages} is less than 1: a layer takes at least the stage before it")
    return [list(range(max(layer + 1 - num_stages, 0), layer + 1)) for layer in range(num_layers)]


def check_schedule(schedule: Sequence[Sequence[int]], num_layers: int) -> list[list[int]]:
    """The schedule as lists.

    Raises:
        ValueError: when it is not one list for each layer, of stages in ascending order that end with the stage
            directly before the layer, which evaluation decodes.
    """
    if len(schedule) != num_layers:
        raise ValueError(
            f"recollection says what {len(schedule)} layers decode, but the decoder has {num_layers}: give one list of "
            "stages for each layer, or selective_recollection(num_layers)"
        )
    for layer, stages in enumerate(schedule):
        taken = list(stages)
        if not taken or taken != sorted(set(taken)) or taken[0] < 0 or taken[-1] != layer:
            raise ValueError(
                f"recollection[{layer}] is {taken}: it lists stages in ascending order, 0 for the first queries and k "
                f"for the results of the k-th layer, and ends with {layer}, the stage directly before the layer"
            )
    return [list(stages) for stages in schedule]
