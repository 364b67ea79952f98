import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.testing import assert_close

from detrex_lite.layers import (
    FFN,
    BaseTransformerLayer,
    ConditionalCrossAttention,
    ConditionalSelfAttention,
    MultiheadAttention,
    MultiScaleDeformableAttention,
)
from detrex_lite.ops.cpu import accelerate, chunked_mlp, linear, modules, restore
from detrex_lite.ops.cpu.acceleration import ACCELERATED

C, H, B, Q, N = 32, 4, 2, 12, 20
BLOCKS = {
    "linear": (lambda: nn.Linear(C, C), "AcceleratedLinear"),
    "dropout": (lambda: nn.Dropout(0.5), "AcceleratedDropout"),
    "ffn": (lambda: FFN(C, 64, ffn_drop=0.1), "AcceleratedFFN"),
    "attention": (lambda: MultiheadAttention(C, H), "AcceleratedMultiheadAttention"),
    "cross_attention": (
        lambda: ConditionalCrossAttention(C, H, add_query_pos=True),
        "AcceleratedConditionalCrossAttention",
    ),
}


@pytest.fixture(autouse=True)
def accelerate_small_layers(monkeypatch):
    """Accelerate small layers, too, and on all processors."""
    monkeypatch.setattr(linear, "MIN_MACS", 1)
    monkeypatch.setattr(linear, "MIN_CHANNELS", 1)
    monkeypatch.setattr(linear, "_has_wide_vectors", torch.backends.mkldnn.is_available)
    monkeypatch.setattr(chunked_mlp, "CHUNK_TOKENS", 7)


@pytest.fixture
def chunked_calls(monkeypatch):
    """The calls of `chunked_mlp`."""
    calls = []
    function = modules.chunked_mlp

    def recording_mlp(*arguments):
        calls.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(modules, "chunked_mlp", recording_mlp)
    return calls


class Decoder(nn.Module):
    """A model of all blocks, with layers that are accelerated and layers that are not."""

    def __init__(self, dropout=0.0):
        super().__init__()
        norm, order = nn.LayerNorm(C), ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm")
        self.conditional = BaseTransformerLayer(
            attn=[ConditionalSelfAttention(C, H), ConditionalCrossAttention(C, H, add_query_pos=True)],
            ffn=FFN(C, 64, ffn_drop=dropout),
            norm=norm,
            operation_order=order,
        )
        self.deformable = BaseTransformerLayer(
            attn=[MultiheadAttention(C, H), MultiScaleDeformableAttention(C, H, 1, 4, dropout=dropout)],
            ffn=FFN(C, 64, activation=nn.GELU, ffn_drop=dropout),
            norm=norm,
            operation_order=order,
        )
        self.head = nn.Sequential(nn.Linear(C, C), nn.Dropout(dropout), nn.Linear(C, 4))

    def forward(self, query, memory, query_pos, key_pos):
        inputs = {"query_pos": query_pos, "key_pos": key_pos}
        query = self.conditional(query, memory, **inputs, cross_attn_inputs={"query_sine_embed": query_pos})
        points = {"reference_points": query[..., None, :2].sigmoid(), "spatial_shapes": [(4, 5)]}
        return self.head(self.deformable(query, memory, **inputs, cross_attn_inputs=points))


def build(dropout=0.0):
    torch.manual_seed(0)
    model = Decoder(dropout)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def inputs(dtype=torch.float32):
    torch.manual_seed(1)
    return [torch.randn(B, tokens, C, dtype=dtype, requires_grad=True) for tokens in (Q, N, Q, N)]


def module_kinds(model):
    return {name: type(module).__name__ for name, module in model.named_modules()}


def values_and_gradients(model, model_inputs):
    out = model(*model_inputs)
    return out, torch.autograd.grad(out.square().sum(), [*model_inputs, *model.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_accelerated_models_give_the_same_values_and_gradients(dtype, chunked_calls):
    model, model_inputs = build().to(dtype), inputs(dtype)
    expected, expected_gradients = values_and_gradients(model, model_inputs)
    assert accelerate(model) is model
    actual, actual_gradients = values_and_gradients(model, model_inputs)
    assert len(chunked_calls) == 1  # the other of the two FFNs has GELU
    relative = 1e-4 if dtype == torch.float32 else 1e-10
    assert_close(actual, expected, rtol=relative, atol=relative)
    for actual_gradient, expected_gradient in zip(actual_gradients, expected_gradients, strict=True):
        assert_close(
            actual_gradient,
            expected_gradient,
            rtol=relative,
            atol=relative * max(1, expected_gradient.abs().max().item()),
        )


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_accelerated_and_restored_in_place(name):
    build_block, accelerated = BLOCKS[name]
    block = build_block()
    plain_kinds, tensors = module_kinds(block), {key: id(value) for key, value in block.named_parameters()}
    accelerate(block)
    assert type(block).__name__ == accelerated
    assert isinstance(block, next(kind for kind, fast in ACCELERATED.items() if fast is type(block)))
    assert {key: id(value) for key, value in block.named_parameters()} == tensors
    accelerated_kinds = module_kinds(block)
    assert module_kinds(accelerate(block)) == accelerated_kinds
    assert restore(block) is block
    assert module_kinds(block) == plain_kinds


def test_subclasses_of_blocks_are_not_accelerated():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Identity(FFN):
        def forward(self, x, identity=None):
            return x

    assert type(accelerate(Doubled(2, 2))) is Doubled
    assert type(accelerate(Identity(2, 2))) is Identity


def test_accelerated_models_work_with_copies_pickles_state_dicts_and_optimizers(tmp_path):
    model, model_inputs = build(), inputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    names = list(model.state_dict())
    accelerate(model)
    assert list(model.state_dict()) == names
    expected = model(*model_inputs)
    torch.save(model, tmp_path / "model.pth")
    loaded = torch.load(tmp_path / "model.pth", weights_only=False)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        assert module_kinds(copied) == module_kinds(model)
        assert_close(copied(*model_inputs), expected)
    plain = build()
    nn.init.zeros_(plain.head[0].weight)
    plain.load_state_dict(model.state_dict())
    assert_close(plain(*model_inputs), expected, rtol=1e-4, atol=1e-4)
    expected.sum().backward()
    before = model.head[0].weight.clone()
    optimizer.step()
    assert not torch.equal(model.head[0].weight, before)


def test_dropout_keeps_the_mean_and_is_off_in_evaluation(chunked_calls):
    ffn = FFN(4, 4000, ffn_drop=0.25, add_identity=False)
    for layer, value in zip(ffn.layers, (1.0, 1 / 4000), strict=True):
        nn.init.constant_(layer.weight, value)
        nn.init.zeros_(layer.bias)
    x = torch.ones(64, 4)
    accelerate(ffn)
    out = ffn(x)
    assert out.mean().item() == pytest.approx(4, rel=0.1)
    assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=0.12)
    assert_close(ffn.eval()(x), torch.full((64, 4), 4.0), rtol=1e-4, atol=0)
    assert len(chunked_calls) == 2
    ffn.dropout.p = 0.999999  # rounds to a probability of 1
    assert not ffn.train()(x).isnan().any()
    assert len(chunked_calls) == 2


def test_an_accelerated_ffn_accepts_inputs_of_any_rank():
    ffn = FFN(C, 64)
    samples = [torch.randn(C), torch.randn(0, C), torch.randn(2, 0, C), torch.randn(2, 3, 4, C)]
    expected = [ffn(x) for x in samples]
    accelerate(ffn)
    assert_close([ffn(x) for x in samples], expected, rtol=1e-4, atol=1e-4)


def add_hook(ffn):
    ffn.calls = 0

    def count(module, arguments, output):
        ffn.calls += 1

    ffn.layers[0].register_forward_hook(count)


def add_weight_norm(ffn):
    with pytest.warns(FutureWarning, match="weight_norm"):
        nn.utils.weight_norm(ffn.layers[0])


MODIFICATIONS = {
    "hook": add_hook,
    "activation_hook": lambda ffn: ffn.activations[0].register_forward_hook(lambda *arguments: None),
    "pre_hook": lambda ffn: ffn.layers[1].register_forward_pre_hook(lambda *arguments: None),
    "backward_hook": lambda ffn: ffn.layers[1].register_full_backward_hook(lambda *arguments: None),
    "dropout_hook": lambda ffn: ffn.dropout.register_forward_hook(lambda *arguments: None),
    "weight_norm": add_weight_norm,
    "spectral_norm": lambda ffn: nn.utils.spectral_norm(ffn.layers[1]),
    "new_weight_norm": lambda ffn: nn.utils.parametrizations.weight_norm(ffn.layers[0]),
    "parametrization": lambda ffn: parametrize.register_parametrization(ffn.layers[0], "weight", nn.Tanh()),
    "prune": lambda ffn: prune.l1_unstructured(ffn.layers[1], "weight", amount=0.5),
    "replaced_forward": lambda ffn: setattr(
        ffn.layers[0], "forward", lambda x: 2 * nn.Linear.forward(ffn.layers[0], x)
    ),
}


def train_steps(ffn, x, steps=3):
    """The outputs of a few training steps."""
    optimizer, results = torch.optim.SGD(ffn.parameters(), lr=0.05), []
    for _ in range(steps):
        out = ffn(x)
        results.append(out.detach())
        optimizer.zero_grad()
        out.square().mean().backward()
        optimizer.step()
    return results


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("modification", MODIFICATIONS)
@pytest.mark.parametrize("when", ["never", "before", "after"])
def test_modified_inner_modules_give_the_same_results(modification, when, chunked_calls):
    """A modified block trains like a modified plain block, whether it is accelerated before, after or never."""
    torch.manual_seed(0)
    plain, x = FFN(C, 64), torch.randn(B, N, C)
    ffn = copy.deepcopy(plain)
    torch.manual_seed(1)  # spectral_norm draws random vectors
    MODIFICATIONS[modification](plain)
    expected = train_steps(plain, x)
    if when == "after":
        accelerate(ffn)
    torch.manual_seed(1)
    MODIFICATIONS[modification](ffn)
    if when == "before":
        accelerate(ffn)
        assert type(ffn) is FFN
    if modification != "replaced_forward":  # the replaced forward refers to a layer of the other block
        assert_close(train_steps(ffn, x), expected, rtol=1e-4, atol=1e-4)
    else:
        train_steps(ffn, x)
    assert not chunked_calls
    assert getattr(ffn, "calls", 3) == 3


def test_unmodified_layers_of_a_modified_block_are_still_accelerated():
    ffn = FFN(C, 64)
    add_hook(ffn)
    accelerate(ffn)
    assert [type(layer).__name__ for layer in ffn.layers] == ["Linear", "AcceleratedLinear"]


def test_global_hooks_are_called_for_inner_modules(chunked_calls):
    ffn, called_modules = accelerate(FFN(C, 64)), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *arguments: called_modules.append(module))
    try:
        ffn(torch.randn(3, C))
    finally:
        handle.remove()
    assert ffn.layers[0] in called_modules
    assert not chunked_calls
    ffn(torch.randn(3, C))
    assert len(chunked_calls) == 1


def test_replaced_inner_modules_are_called(chunked_calls):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    ffn, x = accelerate(FFN(C, 64, add_identity=False)), torch.randn(5, C)
    before = ffn(x)
    exchanged = Doubled(64, C)
    exchanged.load_state_dict(ffn.layers[1].state_dict())
    ffn.layers[1] = exchanged
    assert_close(ffn(x), 2 * before, rtol=1e-4, atol=1e-4)
    assert len(chunked_calls) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_plain_and_restored_models_can_be_quantised():
    quantization = pytest.importorskip("torch.ao.quantization")
    torch.manual_seed(0)
    x = torch.randn(5, C)
    for model in (FFN(C, 64).eval(), restore(accelerate(FFN(C, 64).eval()))):
        quantised = quantization.quantize_dynamic(model, {nn.Linear})
        assert not any(type(module) is nn.Linear for module in quantised.modules())
        assert_close(quantised(x), model(x), rtol=0.1, atol=0.1)


def test_plain_and_restored_models_can_be_differentiated_twice():
    torch.manual_seed(0)
    x = torch.randn(3, C, dtype=torch.float64, requires_grad=True)
    plain, second_gradients = FFN(C, 64).double(), []
    restored = restore(accelerate(copy.deepcopy(plain)))
    for ffn in (plain, restored):
        (first_gradient,) = torch.autograd.grad(ffn(x).square().sum(), x, create_graph=True)
        second_gradients.append(torch.autograd.grad(first_gradient.square().sum(), x)[0])
    assert_close(*second_gradients)
    (first_gradient,) = torch.autograd.grad(accelerate(plain)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first_gradient.square().sum().backward()


def test_other_devices_autocast_and_compiling_use_the_plain_implementation(chunked_calls, monkeypatch):
    model, model_inputs = build().eval(), inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(*model_inputs)
        assert_close(accelerate(model)(*model_inputs), expected)
    with torch.no_grad():
        on_meta = copy.deepcopy(model).to("meta").head(torch.empty(B, C, device="meta"))
    assert on_meta.shape == (B, 4)
    restore(model)
    expected = model(*model_inputs)
    compiled = torch.compile(accelerate(model), backend="eager", fullgraph=True)
    assert_close(compiled(*model_inputs), expected)
    assert not chunked_calls


def test_activation_checkpointing_recomputes_the_same_dropout(chunked_calls):
    model, model_inputs = accelerate(build(dropout=0.3)), inputs()
    results = []
    for checkpointed in (False, True):
        for layer in (model.conditional, model.deformable):
            layer.activation_checkpointing = checkpointed
        torch.manual_seed(2)
        results.append(values_and_gradients(model, model_inputs))
    assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)
    assert len(chunked_calls) == 3  # once more in the backward pass


@pytest.mark.parametrize("attn_drop", [0.0, 0.5])
def test_values_of_cross_attention_are_padded_without_attention_dropout(attn_drop, monkeypatch):
    widths = []
    original = ConditionalCrossAttention.attend_heads

    def spy(self, q, k, v, *masks):
        widths.append(v.shape[-1])
        return original(self, q, k, v, *masks)

    monkeypatch.setattr(ConditionalCrossAttention, "attend_heads", spy)
    attention = accelerate(ConditionalCrossAttention(C, H, attn_drop=attn_drop))
    query, memory, sine, key_pos = inputs()
    attention(query, memory, key_pos=key_pos, query_sine_embed=sine)
    attention.eval()(query, memory, key_pos=key_pos, query_sine_embed=sine)
    assert widths == [C // H if attn_drop else 2 * C // H, 2 * C // H]
