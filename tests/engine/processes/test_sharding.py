"""Sharding in a single process; sharded training is tested in `test_two_processes.py`."""

import copy

import torch
from torch import nn

from detrex_lite.engine.processes import sharding


def test_without_shards_the_functions_return_their_inputs():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert not sharding.is_sharded(model)
    weight = model[0].weight
    assert sharding.part_here(weight) is weight
    assert sharding.whole(weight) is weight
    tree = {"a": [weight, (1, None)], "b": {"c": torch.zeros(3)}}
    copied = sharding.gathered(tree)
    assert copied == {"a": [weight, (1, None)], "b": {"c": tree["b"]["c"]}}
    assert copied["a"][0] is weight
    with sharding.whole_weights(model) as context:
        assert context is None
    sharding.take_weights_of_main_process(model)


def test_restored_optimizer_states_have_the_memory_layout_of_the_parameters():
    """A fused optimizer reads parameters and states in their order in memory and ignores strides."""

    def train_two_steps(memory_format, state=None):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 3).to(memory_format=memory_format)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        if state is not None:
            weights, moments = copy.deepcopy(state)
            model.load_state_dict(weights)
            optimizer.load_state_dict(sharding.split_optimizer_state(moments, optimizer))
        for seed in range(2) if state is None else range(2, 4):
            images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
            model(images).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return copy.deepcopy((model.state_dict(), optimizer.state_dict()))

    before = train_two_steps(torch.channels_last)
    expected, actual = (
        train_two_steps(layout, before)[0]["weight"] for layout in (torch.channels_last, torch.contiguous_format)
    )
    torch.testing.assert_close(actual, expected)


def test_large_blocks_of_the_backbone_are_sharding_units(monkeypatch):
    monkeypatch.setattr(sharding, "UNIT_PARAMETERS", 50)
    model = nn.Module()
    blocks = nn.ModuleList([nn.Linear(7, 7)])
    model.backbone = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(7, 7), nn.Linear(8, 8)), blocks)
    model.encoder = nn.Sequential(nn.Linear(9, 9))
    outer = model.backbone[1]
    assert list(sharding._units(model)) == [outer, outer[0], outer[1], blocks[0]]
    assert list(sharding._units(nn.Linear(9, 9))) == []
