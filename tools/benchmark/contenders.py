"""The sides of a model comparison: one interface for this project's models and for other implementations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from detrex_lite.engine.loop.optim import adamw
from detrex_lite.ops.cpu import accelerate

from .building import build_model
from .transformers_models import plan_transformers_model, transformers_inputs, transformers_labels

OURS = "detrex_lite"
# Small: weights must stay near their initial values, so that all rounds do the same work, matching included.
LEARNING_RATE = 1e-6


@dataclass
class Contender:
    """One implementation with its inputs.

    Attributes:
        name: name of the implementation.
        model: the model, on its device.
        infer: runs a module, either `model` or its compiled version, on the images of the inference pass.
        loss: returns the total loss of a module on the images of the training step.
        optimizer: AdamW over the trainable parameters, with the same kernel on all sides.
    """

    name: str
    model: nn.Module
    infer: Callable[[Any], object]
    loss: Callable[[Any], Tensor]
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = adamw(trained, lr=LEARNING_RATE)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def own_bytes(self, *, training: bool) -> int:
        """The number of bytes of weights and buffers, and in training of the optimizer's state."""
        tensors: list[Any] = [*self.model.parameters(), *self.model.buffers()]
        if training:
            tensors += [value for state in self.optimizer.state.values() for value in state.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))

    def inference_step(self, module: Any, autocast_dtype: torch.dtype | None) -> Callable[[], object]:
        """A function that runs one inference pass, in float32 or under autocast."""
        device = next(self.model.parameters()).device

        def step() -> object:
            with torch.no_grad(), _autocast(device, autocast_dtype):
                return self.infer(module)

        return step

    def training_step(self, module: Any, autocast_dtype: torch.dtype | None) -> Callable[[], object]:
        """A function that runs a forward pass, a backward pass and an optimizer step, and frees the gradients."""
        device = next(self.model.parameters()).device

        def step() -> None:
            with _autocast(device, autocast_dtype):
                loss = self.loss(module)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

        return step


class Factory(Protocol):
    """Creates a contender. It is called only after all configs of a measurement have been checked."""

    def __call__(
        self, device: torch.device, images: Sequence[dict], training_images: Sequence[dict], seed: int
    ) -> Contender:
        """images, training_images: see `synthetic_batch`."""
        ...


def prepare_ours(model_config: DictConfig) -> Factory:
    """This project's model, accelerated on a CPU as in the engine: from bytes to detections and to losses."""

    def make(device: torch.device, images: Sequence[dict], training_images: Sequence[dict], seed: int) -> Contender:
        model = build_model(model_config, seed=seed).to(device)
        if device.type == "cpu":
            accelerate(model)
        return Contender(OURS, model, lambda run: run(images), lambda run: _total(run(training_images)))

    return make


def _total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([loss.float() for loss in losses.values()]).sum()


def prepare_transformers(model_config: DictConfig) -> Factory:
    """transformers' model of the same kind and sizes: from normalised pixels to logits and boxes and to its loss.

    Its times do not include decoding, normalisation and postprocessing, which transformers leaves to a processor.

    Raises:
        BenchmarkError: when transformers is not installed or has no such model.
    """
    build = plan_transformers_model(model_config)

    def make(device: torch.device, images: Sequence[dict], training_images: Sequence[dict], seed: int) -> Contender:
        torch.manual_seed(seed)
        model = build().to(device)
        pixels = transformers_inputs(images, model_config, device)
        training_pixels = transformers_inputs(training_images, model_config, device)
        labels = transformers_labels(training_images, device)
        return Contender(
            "transformers",
            model,
            lambda run: run(pixel_values=pixels),
            lambda run: run(pixel_values=training_pixels, labels=labels).loss,
        )

    return make


CONTENDERS: dict[str, Callable[[DictConfig], Factory]] = {"transformers": prepare_transformers}


def _autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
