"""Certificates by hand: how far apart outputs may be, in which mode, and what is not compared."""

import copy
import math
from dataclasses import FrozenInstanceError, dataclass, field

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sentei.errors import CertificateError, StructureError
from sentei.network.mask import Mask
from sentei.network.surgery.certificate import certify
from sentei.network.surgery.surgery import shrink
from sentei.network.tracing.tracing import find_units

X = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))


class Says(nn.Module):
    """Gives the same numbers for every sample: some in evaluation mode, others in training mode."""

    def __init__(self, *values, training=None, dtype=torch.float32):
        super().__init__()
        self.values = [torch.tensor(value, dtype=dtype) for value in values]
        self.other = self.values
        if training is not None:
            self.other = [torch.tensor(value, dtype=dtype) for value in training]

    def forward(self, x):
        said = self.other if self.training else self.values
        return [value.expand(len(x), *value.shape) for value in said]


@pytest.mark.parametrize(
    ("dtype", "allowed"),
    [
        (torch.float64, 1e-9),
        (torch.float32, 1e-4),
        (torch.bfloat16, 5e-2),
        (torch.float16, 1e-2),
    ],
)
@pytest.mark.parametrize("largest", [0.25, 1.0, -64.0])
def test_the_tolerance_is_that_of_the_dtype_relative_to_the_largest_value(dtype, allowed, largest):
    """Outputs of 0 and a number; in the smaller network the 0 is another number."""
    masked = Says([largest, 0.0], training=[[largest, 0.0]], dtype=dtype)
    near, far = 0.8 * allowed * abs(largest), 1.25 * allowed * abs(largest)
    proof = certify(masked, Says([largest, near], training=[[largest, 0.0]], dtype=dtype), X)
    assert proof.tolerance == allowed
    assert proof.difference == pytest.approx(0.8 * allowed, rel=1e-2)
    assert proof.training_difference == 0.0
    for wrong in (far, -far):
        with pytest.raises(CertificateError, match="in evaluation mode outputs differ"):
            certify(masked, Says([largest, wrong], dtype=dtype), X)


def test_training_mode_is_compared_too():
    masked = Says([2.0, 0.0])
    near, far = (Says([2.0, 0.0], training=[[2.0, more]]) for more in (1.6e-4, 2.5e-4))
    assert certify(masked, near, X).training_difference == pytest.approx(0.8e-4, rel=1e-2)
    with pytest.raises(CertificateError, match="in training mode outputs differ"):
        certify(masked, far, X)


def test_where_all_values_are_zero_every_other_value_differs():
    assert certify(Says([0.0]), Says([0.0]), X).difference == 0.0
    with pytest.raises(CertificateError, match="evaluation mode outputs differ"):
        certify(Says([0.0]), Says([1e-30]), X)


def test_a_difference_of_exactly_the_tolerance_is_allowed():
    masked, small = (Says([1.0, value], dtype=torch.float64) for value in (0.0, 1e-9))
    assert certify(masked, small, X).difference == 1e-9


def test_each_tensor_is_measured_by_its_own_largest_value():
    masked = Says([1000.0], [0.5, 0.0])
    with pytest.raises(CertificateError, match=r"output\[1\] by 0\.02 of its largest value"):
        certify(masked, Says([1000.0], [0.5, 0.01]), X)
    proof = certify(Says([1.0, 2.0], [3.0, -4.0]), Says([1.0, 2.00003], [3.0001, -4.0]), X)
    assert proof.difference == pytest.approx(2.5e-5, rel=2e-2)
    assert proof.compared == 4  # two outputs in two modes


def test_the_tolerance_is_that_of_the_coarsest_output():
    class Mixed(nn.Module):
        def __init__(self, more=0.0):
            super().__init__()
            self.more = more

        def forward(self, x):
            ones = x[:, :1] * 0 + 1
            return ones.double() + self.more, ones.bfloat16()

    assert certify(Mixed(), Mixed(0.04), X).tolerance == 5e-2
    with pytest.raises(CertificateError, match=r"by 0\.06 of its largest value, and 0\.05"):
        certify(Mixed(), Mixed(0.06), X)


def test_outputs_of_other_shapes_or_another_number_of_them_are_refused():
    with pytest.raises(
        CertificateError, match=r"same shapes.* evaluation mode output\[0\] is .*64, 2"
    ):
        certify(Says([1.0]), Says([1.0, 1.0]), X)
    with pytest.raises(CertificateError, match=r"return what .* returns output\[1\]"):
        certify(Says([1.0], [2.0]), Says([1.0]), X)
    with pytest.raises(CertificateError, match="in training mode output"):
        certify(Says([1.0]), Says([1.0], training=[[1.0, 1.0]]), X)


@pytest.mark.parametrize("odd", [float("inf"), float("-inf"), float("nan")])
def test_equal_infinities_and_nan_are_no_difference_and_all_others_are(odd):
    proof = certify(Says([odd, 1.0]), Says([odd, 1.0]), X)
    assert proof.difference == 0.0
    for other in {0.0, float("inf"), float("-inf"), float("nan")} - {odd}:
        if other == other or odd == odd:
            with pytest.raises(CertificateError, match="outputs differ"):
                certify(Says([odd, 1.0]), Says([other, 1.0]), X)


@dataclass
class Result:
    """What a network of a user may return."""

    first: object
    rest: dict = field(default_factory=dict)


class Plain:
    def __init__(self, value):
        self.value = value


FORMS = {
    "tensor": lambda t: t,
    "tuple": lambda t: (0, t),
    "nested": lambda t: [{"a": (t,)}],
    "dataclass": lambda t: Result(1, {"t": t}),
    "object": lambda t: Plain([t]),
    "whole numbers": lambda t: (t * 100).round().long(),
    "bools": lambda t: t > 0.995,
    "complex": lambda t: torch.complex(t, t),
    "number": lambda t: float(t.sum()),
    "text": lambda t: str(int(t.sum() * 100)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_output_of_any_form_is_compared(form):
    class Gives(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, x):
            return FORMS[form](torch.full((len(x),), self.value))

    assert certify(Gives(1.0), Gives(1.0), X).difference == 0.0
    with pytest.raises(CertificateError, match="evaluation mode"):
        certify(Gives(1.0), Gives(0.99), X)


def test_what_cannot_be_compared_is_named():
    class Odd(nn.Module):
        def forward(self, x):
            return x, {"rest": x.to_sparse(), "how": len}

    proof = certify(Odd(), Odd(), X)
    assert proof.compared == 2
    assert proof.uncompared == (
        "output[1]['rest'] (Tensor)",
        "output[1]['how'] (builtin_function_or_method)",
    )
    assert "not compared: output[1]['rest']" in str(proof)


def test_whole_numbers_near_a_boundary_are_decided_in_float64():
    class Rounded(nn.Module):
        """One rounds an exact half in two ways; their float64 copies agree."""

        def __init__(self, more):
            super().__init__()
            self.more, self.weight = more, nn.Parameter(torch.ones(1))

        def forward(self, x):
            more = self.more if self.weight.dtype == torch.float32 else 0.0
            return (x[:, :1] * 0 + self.weight * 0.5 + more).round().long()

    assert certify(Rounded(0.0), Rounded(1e-6), X).difference == 0.0

    class Other(Rounded):
        def forward(self, x):
            return super().forward(x) + 1

    with pytest.raises(CertificateError, match="evaluation mode outputs differ"):
        certify(Rounded(0.0), Other(0.0), X)


def test_what_rounding_alone_explains_is_allowed():
    class Cancels(nn.Module):
        """The difference of two large numbers is rounding, in the one network as in the other."""

        def __init__(self, more):
            super().__init__()
            self.more = more
            self.large = nn.Parameter(torch.full((4,), 1e6))

        def forward(self, x):
            return (self.large * 1.1 - 1.1e6) + 1 + self.more + x.sum() * 0

    assert certify(Cancels(0.0), Cancels(0.1), X).difference == 0.0
    with pytest.raises(CertificateError, match="evaluation mode outputs differ"):
        certify(Cancels(0.0), Cancels(50.0), X)


def test_a_network_that_draws_random_numbers_is_named_as_such():
    class Noisy(nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.shape = shape

        def forward(self, x):
            return x + torch.randn(self.shape).sum()

    with pytest.raises(StructureError, match="draws random numbers"):
        certify(Noisy((2,)), Noisy((3,)), X)


class Fails(nn.Module):
    """Runs in the modes named only."""

    def __init__(self, *modes):
        super().__init__()
        self.modes = modes

    def forward(self, x):
        if self.training not in self.modes:
            raise ValueError("expected more than 1 value")
        return x * 0


def test_a_network_that_cannot_run_in_training_mode_is_compared_in_evaluation_mode_only():
    proof = certify(Fails(False), Fails(False), X)
    assert proof.training_difference is None
    assert str(proof) == (
        "same function on 64 inputs (54 of them random): largest relative difference 0.0e+00 over "
        "1 tensor, within the allowed 1.0e-04; not compared: training mode (expected more than 1 "
        "value)"
    )
    with pytest.raises(CertificateError, match="does not run: expected more than 1 value"):
        certify(Fails(True, False), Fails(True), X)
    with pytest.raises(CertificateError, match="does not run: expected more than 1 value"):
        certify(Fails(True, False), Fails(False), X)
    with pytest.raises(ValueError, match="expected more"):  # the masked one has to run
        certify(Fails(True), Fails(True, False), X)


def test_a_certificate_says_in_words_what_was_compared():
    proof = certify(Says([8.0, 0.0]), Says([8.0, 0.0002], training=[[8.0, 0.0004]]), X)
    assert str(proof) == (
        "same function on 64 inputs (54 of them random): largest relative difference 2.5e-05 over "
        "2 tensors, within the allowed 1.0e-04; 5.0e-05 in training mode"
    )
    with pytest.raises(FrozenInstanceError):
        proof.difference = 0.0


def test_how_many_inputs_are_compared():
    several = certify(nn.Identity(), nn.Identity(), torch.rand(70, 2))
    assert (several.inputs, several.real) == (70, 70)
    assert "on 70 inputs: " in str(several)
    large = certify(nn.Identity(), nn.Identity(), torch.rand(1, 3, 224, 224))
    assert (large.inputs, large.real) == (2, 1)
    middle = certify(nn.Identity(), nn.Identity(), torch.rand(1, 2**12))
    assert (middle.inputs, middle.real) == (16, 1)

    class Pair(nn.Module):
        def forward(self, x, y):
            return x.sum() + y.sum()

    # Tensors of different lengths have no samples that could be counted or added.
    pair = certify(Pair(), Pair(), (torch.rand(3, 2), torch.rand(5)))
    assert (pair.inputs, pair.real) == (1, 1)
    in_evaluation = certify(Fails(False), Fails(False), torch.tensor(2.0))
    assert (in_evaluation.inputs, in_evaluation.real) == (1, 1)


class Drops(nn.Module):
    """Calls one function of torch that drops at random in training mode."""

    def __init__(self, call, p):
        super().__init__()
        self.call, self.p = call, p

    def forward(self, x):
        return self.call(x, self.p if self.training else 0.0)


def heads(x, *rest, **named):
    return F.scaled_dot_product_attention(x, x.flip(-1), x.roll(1, -1), *rest, **named)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, p: F.dropout(x, p, True),
        lambda x, p: F.dropout(input=x, p=p, training=True),
        lambda x, p: torch.dropout(x, p, True),
        lambda x, p: F.alpha_dropout(x, p, True),
        lambda x, p: F.feature_alpha_dropout(x[:, :, None], p, True),
        lambda x, p: F.dropout1d(x[:, :, None], p, True),
        lambda x, p: F.dropout2d(x[:, :, None, None], p, True),
        lambda x, p: F.dropout3d(x[:, :, None, None, None], p, True),
        lambda x, p: torch.feature_dropout(x[:, :, None], p, True),
        lambda x, p: heads(x[None, None], dropout_p=p),
        lambda x, p: heads(x[None, None], None, p),
        lambda x, p: heads(x[None, None], None, p, True),
    ],
)
def test_no_function_drops_anything_in_a_certificate(call):
    assert certify(Drops(call, 0.0), Drops(call, 0.5), X).training_difference == 0.0
    other = Drops(lambda x, p: call(x, p) + (0.01 if p else 0.0), 0.5)
    with pytest.raises(CertificateError, match="training mode outputs differ"):
        certify(Drops(call, 0.0), other, X)


def test_attention_is_left_as_it_is_but_for_its_dropout():
    """The argument after the dropout, and the one before it, stay: a causal mask changes much."""
    mask = torch.zeros(64, 64)
    mask[:, :3] = -torch.inf
    for changed in (
        lambda x, p: heads(x[None, None], None, p, True),
        lambda x, p: heads(x[None, None], mask, p),
        lambda x, p: heads(x[None, None], attn_mask=mask, dropout_p=p),
        lambda x, p: heads(x[None, None], is_causal=True, dropout_p=p),
    ):
        plain = Drops(lambda x, p: heads(x[None, None]), 0.5)
        with pytest.raises(CertificateError, match="outputs differ"):
            certify(plain, Drops(changed, 0.5), X)
    assert certify(plain, Drops(lambda x, p: heads(x[None, None], None), 0.5), X).difference == 0.0


@pytest.mark.parametrize("need_weights", [False, True])
def test_torchs_own_attention_drops_nothing_and_stays_as_it_is(need_weights):
    torch.manual_seed(0)

    class Own(nn.Module):
        def __init__(self, dropout):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, dropout=dropout, batch_first=True)

        def forward(self, x):
            return self.attention(x[:, None], x[:, None], x[:, None], need_weights=need_weights)[0]

    plain = Own(0.0)
    dropping = Own(0.5)
    dropping.load_state_dict(plain.state_dict())
    assert certify(plain, dropping, X).training_difference == 0.0
    other = copy.deepcopy(dropping)
    other.attention.out_proj.bias.data.add_(0.01)
    with pytest.raises(CertificateError, match="evaluation mode"):
        certify(plain, other, X)


def test_the_random_numbers_of_both_networks_are_the_same_and_the_callers_are_kept():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.rand(())

    torch.manual_seed(7)
    before = torch.get_rng_state()
    proof = certify(Noisy(), Noisy(), X)
    assert (proof.difference, proof.training_difference) == (0.0, 0.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_graph_is_recorded():
    class Looks(nn.Module):
        def forward(self, x):
            return x * (2.0 if torch.is_grad_enabled() else 1.0)

    proof = certify(nn.Identity(), Looks(), X)
    assert (proof.difference, proof.training_difference) == (0.0, 0.0)


def test_how_far_a_cut_moved_the_original_is_measured_on_it_with_and_without_a_mask():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    (group,) = find_units(model, X)
    mask = Mask.full([group]).without({group: [1]})
    masked = copy.deepcopy(model)
    mask.apply_(masked)
    small = shrink(model, mask, X)
    example = torch.randn(64, 4, generator=torch.Generator().manual_seed(2))
    want = ((model(example) - masked(example)).abs().max() / model(example).abs().max()).item()
    for given in (None, mask):
        proof = certify(masked, small, example, mask=given, original=model)
        assert proof.moved == pytest.approx(want, rel=1e-5)
        assert certify(masked, small, example, mask=given, original=masked).moved == 0
    assert "changed no output" in str(certify(masked, small, example, original=masked))
    assert certify(masked, small, example, mask=mask).moved > 0
    assert math.isnan(certify(masked, small, example).moved)
