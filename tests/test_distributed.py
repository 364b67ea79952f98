import unittest.mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from detrex_lite import distributed

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch is built without gloo"
)


def test_a_single_process_is_the_main_process():
    assert not distributed.is_distributed()
    assert distributed.world_size() == 1
    assert distributed.rank() == 0
    assert distributed.is_main_process()
    distributed.barrier()


def test_a_single_process_gets_its_values_back_unchanged():
    value = torch.tensor(3.0, requires_grad=True)
    assert distributed.mean_over_processes(value) is value
    assert distributed.all_gather_objects({"a": 1}) == [{"a": 1}]
    assert distributed.gather_objects({"a": 1}) == [{"a": 1}]
    assert distributed.broadcast_object("x") == "x"
    assert distributed.from_main_process(lambda: "x") == "x"
    assert distributed.any_process(True) is True
    assert distributed.any_process(False) is False


def _error_of_main(rank):
    def fail():
        raise OSError(f"process {rank} has no file")

    try:
        distributed.from_main_process(fail)
    except OSError as error:
        return str(error)


def _gathered_with_nccl(rank):
    assert distributed.cpu_group() is None
    with unittest.mock.patch.object(dist, "get_backend", return_value="nccl"):
        group = distributed.cpu_group()
        assert group is distributed.cpu_group()
        with unittest.mock.patch.object(dist, "gather_object", side_effect=dist.gather_object) as gather:
            gathered = distributed.gather_objects(rank)
    assert gather.call_args.kwargs["group"] is group is not None
    return gathered


def _check_every_function(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    value = torch.tensor([1.0 + rank, 10.0], requires_grad=True)
    mean = distributed.mean_over_processes(value)
    result = {
        "size and rank": (distributed.is_distributed(), distributed.world_size(), distributed.rank()),
        "main": distributed.is_main_process(),
        "gathered": distributed.all_gather_objects({"rank": rank, "rows": [rank] * rank}),
        "on main": distributed.gather_objects({"rank": rank, "rows": [rank] * rank}),
        "on main, with NCCL": _gathered_with_nccl(rank),
        "broadcast": distributed.broadcast_object(f"from {rank}"),
        "computed": distributed.from_main_process(lambda: f"by {rank}"),
        "raised": _error_of_main(rank),
        "mean": (mean.tolist(), mean.requires_grad),
        "input": value.tolist(),
        "any": [distributed.any_process(flag) for flag in (rank == 1, False, True)],
    }
    torch.save(result, folder / f"{rank}.pt")
    distributed.barrier()
    dist.destroy_process_group()


@needs_gloo
def test_values_are_exchanged_between_two_processes(tmp_path):
    mp.spawn(_check_every_function, args=(tmp_path,), nprocs=2)
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == {
            "size and rank": (True, 2, rank),
            "main": rank == 0,
            "gathered": [{"rank": 0, "rows": []}, {"rank": 1, "rows": [1]}],
            "on main": [{"rank": 0, "rows": []}, {"rank": 1, "rows": [1]}] if rank == 0 else [],
            "on main, with NCCL": [0, 1] if rank == 0 else [],
            "broadcast": "from 0",
            "computed": "by 0",
            "raised": "process 0 has no file",
            "mean": ([1.5, 10.0], False),
            "input": [1.0 + rank, 10.0],
            "any": [True, False, True],
        }


@needs_gloo
def test_a_group_of_one_process_is_not_distributed(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert not distributed.is_distributed()
        assert (distributed.world_size(), distributed.rank()) == (1, 0)
    finally:
        dist.destroy_process_group()
