import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from detrex_lite.layers import FFN, MLP


def test_ffn_is_two_linear_layers_and_the_identity():
    torch.manual_seed(0)
    ffn = FFN(8, 32)
    x = torch.randn(2, 3, 8)
    first, second = ffn.layers
    expected = second(F.relu(first(x)))
    assert_close(ffn(x), x + expected)
    identity = torch.randn(2, 3, 8)
    assert_close(ffn(x, identity=identity), identity + expected)


def test_ffn_without_identity_may_change_width():
    ffn = FFN(8, 32, output_dim=5, num_fcs=3, activation=nn.GELU, fc_bias=False, add_identity=False)
    x = torch.randn(2, 8)
    expected = x
    for number, layer in enumerate(ffn.layers):
        assert layer.bias is None
        expected = layer(F.gelu(expected) if number else expected)
    assert_close(ffn(x), expected)
    assert expected.shape == (2, 5)


def test_activations_are_not_shared_between_layers():
    ffns = [FFN(8, 16, num_fcs=3) for _ in range(2)]
    activations = [activation for ffn in ffns for activation in ffn.activations]
    assert len({id(activation) for activation in activations}) == 4


def test_each_layer_gets_a_copy_of_an_activation_module():
    activation = nn.PReLU(init=0.7)
    ffn = FFN(8, 16, num_fcs=3, activation=activation)
    assert [copy.weight.item() for copy in ffn.activations] == [pytest.approx(0.7)] * 2
    assert len({id(copy) for copy in (activation, *ffn.activations)}) == 3
    assert not hasattr(FFN(8, 16, activation=nn.ReLU()).activations[0], "weight")


def test_resetting_draws_xavier_uniform_weights_and_keeps_biases():
    torch.manual_seed(0)
    ffn = FFN(64, 128)
    before = [(layer.weight.clone(), layer.bias.clone()) for layer in ffn.layers]
    ffn.reset_parameters()
    for layer, (weight, bias) in zip(ffn.layers, before, strict=True):
        bound = (6 / 192) ** 0.5
        assert not torch.equal(layer.weight, weight)
        assert torch.equal(layer.bias, bias)
        assert 0.98 * bound < layer.weight.abs().max() <= bound


def test_forward_hooks_of_inner_modules_are_called():
    ffn, called_modules = FFN(8, 16), []
    for module in (*ffn.layers, *ffn.activations):
        module.register_forward_hook(lambda module, inputs, output: called_modules.append(module))
    ffn(torch.randn(3, 8))
    assert called_modules == [ffn.layers[0], ffn.activations[0], ffn.layers[1]]


def test_ffn_can_be_differentiated_twice():
    ffn, x = FFN(4, 6, activation=nn.Tanh).double(), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(ffn, (x,))


def test_ffn_dropout_acts_in_training_only():
    torch.manual_seed(0)
    ffn, x = FFN(8, 32, ffn_drop=0.5), torch.randn(4, 8)
    assert not torch.equal(ffn(x), ffn(x))
    ffn.eval()
    assert_close(ffn(x), ffn(x), rtol=0, atol=0)


def test_ffn_errors():
    with pytest.raises(ValueError, match="num_fcs=1.*below 2"):
        FFN(8, 16, num_fcs=1)
    with pytest.raises(ValueError, match="add_identity.*output_dim.*embed_dim.*4 and 8"):
        FFN(8, 16, output_dim=4)
    with pytest.raises(ValueError, match="activation='gelu'"):
        FFN(8, 16, activation="gelu")


def test_an_mlp_applies_relu_between_linear_layers():
    mlp = MLP(4, 8, 2, num_layers=3)
    x = torch.randn(5, 4)
    a, b, c = mlp.layers
    assert_close(mlp(x), c(F.relu(b(F.relu(a(x))))))
    assert MLP(4, 8, 2, num_layers=1)(x).shape == (5, 2)
    with pytest.raises(ValueError, match="num_layers=0.*below 1"):
        MLP(4, 8, 2, num_layers=0)


def test_an_mlp_can_have_another_activation():
    mlp = MLP(4, 8, 2, num_layers=2, activation=nn.SiLU)
    x = torch.randn(5, 4)
    first, last = mlp.layers
    assert_close(mlp(x), last(nn.functional.silu(first(x))))
    assert set(mlp.state_dict()) == {"layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"}
