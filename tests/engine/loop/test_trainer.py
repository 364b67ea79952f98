import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from detrex_lite import log_scalar
from detrex_lite.data import TrainBatchSampler
from detrex_lite.engine import Hook, Trainer
from detrex_lite.errors import NonFiniteError

from ..tiny import Recorder, TinyDetector, TinyLoader


def make_trainer(model=None, *, loader=None, max_iter=3, lr=0.1, **arguments):
    model = model if model is not None else TinyDetector(dropout=0.0)
    return Trainer(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr),
        data_loader=loader if loader is not None else TinyLoader(),
        max_iter=max_iter,
        **arguments,
    )


def weights_of(trainer):
    return [p.detach().clone() for p in trainer.model.parameters()]


class CallRecorder(Hook):
    def __init__(self):
        self.entries = []

    def before_train(self, trainer):
        self.entries.append("before_train")

    def after_train(self, trainer):
        self.entries.append("after_train")

    def before_step(self, trainer):
        self.entries.append(f"before_step {trainer.iteration}")

    def after_step(self, trainer):
        self.entries.append(f"after_step {trainer.iteration}")

    def close(self):
        self.entries.append("close")


def test_hooks_are_called_in_order():
    recorder = CallRecorder()
    make_trainer(max_iter=2, hooks=[recorder]).train()
    steps = ["before_step 0", "after_step 1", "before_step 1", "after_step 2"]
    assert recorder.entries == ["before_train", *steps, "after_train", "close"]


def test_hooks_are_closed_after_an_error():
    recorder = CallRecorder()
    with pytest.raises(OSError, match="the disk is gone"):
        make_trainer(loader=TinyLoader(fail_at=1), hooks=[recorder]).train()
    assert recorder.entries[-2:] == ["before_step 1", "close"]


def test_a_finished_run_takes_no_further_step():
    recorder = CallRecorder()
    trainer = make_trainer(max_iter=2, hooks=[recorder])
    trainer.iteration = 2
    before = weights_of(trainer)
    trainer.train()
    assert recorder.entries == ["before_train", "after_train", "close"]
    torch.testing.assert_close(weights_of(trainer), before, rtol=0, atol=0)


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    recorder = Recorder()
    make_trainer(loader=TinyLoader(batch_size=16), max_iter=30, hooks=[recorder]).train()
    assert recorder.losses[-1] < 0.5 * recorder.losses[0]


def test_accumulated_batches_equal_one_larger_batch():
    torch.manual_seed(0)
    model = TinyDetector(dropout=0.0)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    whole = make_trainer(model, loader=TinyLoader(batch_size=4))
    whole.train()
    expected, losses = weights_of(whole), whole.losses
    model.load_state_dict(start)
    parts = make_trainer(model, loader=TinyLoader(batch_size=2), accumulate_steps=2)
    parts.train()
    torch.testing.assert_close(weights_of(parts), expected)
    torch.testing.assert_close(parts.losses, losses)
    assert parts.num_images == whole.num_images == 4


def test_gradients_are_clipped():
    trainer = make_trainer(max_iter=1, lr=1.0, clip_grad={"max_norm": 0.01, "norm_type": 2.0})
    before = weights_of(trainer)
    trainer.train()
    assert trainer.grad_norm > 0.01
    change = torch.cat([(a - b).flatten() for a, b in zip(before, weights_of(trainer), strict=True)])
    torch.testing.assert_close(change.norm(), torch.tensor(0.01), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_runs_the_forward_pass_under_autocast(dtype):
    dtypes = []

    class DtypeRecorder(TinyDetector):
        def forward(self, batched_inputs):
            dtypes.append(self.backbone(torch.zeros(1, 3)).dtype)
            return super().forward(batched_inputs)

    trainer = make_trainer(DtypeRecorder(dropout=0.0), amp_dtype=dtype)
    before = weights_of(trainer)
    trainer.train()
    assert set(dtypes) == {dtype}
    assert trainer.scaler.is_enabled() == (dtype is torch.float16)
    assert all(p.dtype is torch.float32 for p in trainer.parameters)
    assert not torch.equal(before[0], weights_of(trainer)[0])


class CorruptedDetector(TinyDetector):
    """Calls `corrupt` with the losses of batches that contain one of the given files."""

    def __init__(self, corrupt, *file_names):
        super().__init__(dropout=0.0)
        self.corrupt = corrupt
        self.file_names = file_names

    def forward(self, batched_inputs):
        losses = super().forward(batched_inputs)
        if any(record["file_name"] in self.file_names for record in batched_inputs):
            self.corrupt(losses)
        return losses


def set_nan(losses):
    losses["loss_bbox"] = losses["loss_bbox"] * math.nan


def raise_error(losses):
    raise NonFiniteError("the matching costs of set '_0' are not finite")


def make_gradient_infinite(losses):
    losses["loss_bbox"].register_hook(lambda gradient: gradient * math.inf)


def test_a_non_finite_loss_raises_before_weights_change():
    recorder = Recorder()
    trainer = make_trainer(CorruptedDetector(set_nan, "2.jpg"), hooks=[recorder])
    after_first = []
    recorder.after_step = lambda trainer: after_first.append(weights_of(trainer))
    with pytest.raises(
        NonFiniteError,
        match=r"not finite at iteration 2: loss_bbox=nan; images: 2\.jpg, 3\.jpg.*optimizer\.lr",
    ):
        trainer.train()
    assert len(after_first) == 1
    torch.testing.assert_close(weights_of(trainer), after_first[0], rtol=0, atol=0)


def test_losses_of_every_accumulated_batch_are_checked():
    trainer = make_trainer(CorruptedDetector(set_nan, "2.jpg"), accumulate_steps=3)
    before = weights_of(trainer)
    with pytest.raises(NonFiniteError, match=r"iteration 1: loss_bbox=nan; images: 2\.jpg, 3\.jpg\."):
        trainer.train()
    torch.testing.assert_close(weights_of(trainer), before, rtol=0, atol=0)


def test_non_finite_errors_of_the_model_get_iteration_and_images():
    trainer = make_trainer(CorruptedDetector(raise_error, "3.jpg"))
    with pytest.raises(NonFiniteError, match=r"iteration 2: the matching costs .* images: 2\.jpg, 3\.jpg") as caught:
        trainer.train()
    assert "'_0' are not finite" in str(caught.value.__cause__)


@pytest.mark.parametrize("clip_grad", [None, {"max_norm": 1.0}])
def test_a_non_finite_gradient_raises_with_its_images_before_weights_change(clip_grad):
    trainer = make_trainer(CorruptedDetector(make_gradient_infinite, "0.jpg"), clip_grad=clip_grad, max_iter=1)
    before = weights_of(trainer)
    with pytest.raises(
        NonFiniteError,
        match=r"gradient is not finite at iteration 1: its norm is (inf|nan); images: 0\.jpg, 1\.jpg",
    ):
        trainer.train()
    torch.testing.assert_close(weights_of(trainer), before, rtol=0, atol=0)


@pytest.mark.parametrize("clip_grad", [None, {"max_norm": 1.0}])
@pytest.mark.parametrize("accumulate_steps", [1, 2])
def test_the_device_is_not_read_before_the_last_backward_pass(accumulate_steps, clip_grad):
    """Reading a fake tensor raises; the error must come after the last backward pass, before the optimizer's step."""
    calls = []

    class RecordingModel(torch.nn.Linear):
        def forward(self, batched_inputs):
            calls.append("forward")
            out = super().forward(torch.ones(2, 3))
            out.register_hook(lambda gradient: calls.append("backward"))
            return {"loss_class": out.square().mean(), "loss_bbox": out.abs().mean()}

    with FakeTensorMode():
        model = RecordingModel(3, 4)
        trainer = make_trainer(model, accumulate_steps=accumulate_steps, clip_grad=clip_grad)
        trainer.optimizer.register_step_pre_hook(lambda *_: calls.append("step"))
        with pytest.raises(DataDependentOutputException):
            trainer.train()
    assert calls == ["forward", "backward"] * accumulate_steps
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_non_finite_losses_in_float16_advise_bfloat16():
    trainer = make_trainer(CorruptedDetector(set_nan, "0.jpg"), amp_dtype=torch.float16)
    with pytest.raises(NonFiniteError, match=r"train\.amp\.dtype=bf16"):
        trainer.train()


def test_a_loader_that_ends_is_restarted():
    recorder = Recorder()
    make_trainer(loader=TinyLoader(length=2), max_iter=4, lr=0.0, hooks=[recorder]).train()
    assert recorder.losses[:2] == recorder.losses[2:]
    assert recorder.losses[0] != recorder.losses[1]


def test_an_empty_loader_raises():
    with pytest.raises(ValueError, match="gave no batch"):
        make_trainer(loader=[]).train()


def test_a_resumed_run_starts_at_its_batch():
    loader = TinyLoader()
    trainer = make_trainer(loader=loader, max_iter=5, accumulate_steps=2)
    trainer.iteration = 4
    trainer.train()
    assert loader.batch_sampler.start_batch == 8


class PositionLoader:
    """A loader whose images are positions in the stream of a `TrainBatchSampler`."""

    def __init__(self, batch_size):
        self.batch_sampler = TrainBatchSampler(indices=np.arange(20), groups=np.zeros(20), batch_size=batch_size)
        self.positions = []

    def __iter__(self):
        for batch in self.batch_sampler:
            self.positions += [position for _, position in batch]
            yield [TinyLoader.image(position) for _, position in batch]


def test_a_resumed_run_with_another_batch_size_repeats_and_skips_no_image():
    positions, batches, iteration = [], [], 0
    for batch_size, accumulate_steps in ((4, 1), (4, 2), (6, 1), (3, 3)):
        loader = PositionLoader(batch_size)
        trainer = make_trainer(loader=loader, max_iter=iteration + 3, accumulate_steps=accumulate_steps)
        trainer.iteration, trainer.batches = iteration, batches
        trainer.train()
        positions += loader.positions
        batches, iteration = trainer.batches, trainer.iteration
    assert batches == [(4, 9), (6, 3), (3, 9)]
    assert positions == list(range(81))


def test_resuming_with_a_loader_without_a_position_is_logged(caplog):
    batches = [[TinyLoader.image(0)], [TinyLoader.image(1)]]
    trainer = make_trainer(loader=batches)
    trainer.iteration = 1
    trainer.train()
    assert "data starts from the beginning" in caplog.text


def test_a_model_that_returns_no_dict_of_losses_raises():
    class ListDetector(TinyDetector):
        def forward(self, batched_inputs):
            return []

    with pytest.raises(ValueError, match=r"dict of losses; ListDetector .*\[\]"):
        make_trainer(ListDetector()).train()


class DetectorWithEntry(TinyDetector):
    """Adds an entry to the losses."""

    def __init__(self, name, entry):
        super().__init__(dropout=0.0)
        self.name = name
        self.entry = entry

    def forward(self, batched_inputs):
        losses = super().forward(batched_inputs)
        return {**losses, self.name: self.entry(losses["loss_class"])}


@pytest.mark.parametrize(
    ("name", "entry", "description"),
    [
        # Models of mmdetection return an accuracy.
        ("accuracy", lambda loss: loss * 2, r"torch.float32 of shape \(\)"),
        ("loss_number", lambda loss: 0.5, "float 0.5"),
        ("loss_count", lambda loss: torch.tensor(3), r"torch.int64 of shape \(\)"),
        ("loss_all", lambda loss: loss.expand(2), r"torch.float32 of shape \(2,\)"),
        ("loss_none", lambda loss: None, "NoneType None"),
    ],
)
def test_an_entry_that_is_not_a_loss_raises_and_advises_log_scalar(name, entry, description):
    trainer = make_trainer(DetectorWithEntry(name, entry))
    before = weights_of(trainer)
    with pytest.raises(ValueError, match=rf"{name!r} \({description}\).*detrex_lite\.log_scalar"):
        trainer.train()
    torch.testing.assert_close(weights_of(trainer), before, rtol=0, atol=0)


def test_a_loss_without_a_gradient_is_logged_once(caplog):
    make_trainer(DetectorWithEntry("loss_frozen", torch.Tensor.detach)).train()
    assert sum("loss_frozen" in message and "log_scalar" in message for message in caplog.messages) == 1


def test_non_finite_losses_without_a_gradient_raise():
    with pytest.raises(NonFiniteError, match="loss_iou=nan"):
        make_trainer(DetectorWithEntry("loss_iou", lambda loss: (loss * math.nan).detach())).train()


def test_logging_scalars_does_not_read_the_device():
    """Reading a fake tensor raises, which must happen with the losses after the backward pass, not in `log_scalar`."""

    class LoggingModel(torch.nn.Linear):
        def forward(self, batched_inputs):
            out = super().forward(torch.ones(2, 3))
            log_scalar("mean", out.mean())
            log_scalar("count", 2)
            return {"loss_class": out.square().mean()}

    with FakeTensorMode():
        trainer = make_trainer(LoggingModel(3, 4))
        with pytest.raises(DataDependentOutputException):
            trainer.train()
        assert set(trainer.scalars.means(trainer.device)) == {"mean", "count"}
    assert all(parameter.grad is not None for parameter in trainer.model.parameters())
