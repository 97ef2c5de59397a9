"""The wsf reproduction's networks side by side, and its decision lists and trees."""

from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sentei.papers import distortion
from sentei.papers.wsf import lessons, stack
from sentei.papers.wsf.lists import Rule, decision_list, predicted, tree
from sentei.training.models import mlp


def material(rows=96, copies=1):
    generator = torch.Generator().manual_seed(0)
    count = rows * (copies + 1)
    images = torch.randint(0, 256, (count, 784), generator=generator).to(torch.uint8)
    images[:, 60:] = 0  # the pixels that nothing lights are not read
    labels = torch.randint(0, 10, (count,), generator=generator)
    return lessons.Lessons(images, labels, torch.randn(count, 10, generator=generator), rows)


def start(seeds, activation=stack.Ricker, width=6):
    return stack.begun(seeds, width, stack.readable(material()), activation)


def test_the_ricker_by_hand():
    found = stack.Ricker()(torch.tensor([0.0, 1.0, 2.0, -2.0]))
    assert found.tolist() == pytest.approx([1, 0, -3 * 2.718281828**-2, -3 * 2.718281828**-2])


@pytest.mark.parametrize(("whole", "keep"), [(True, 150), (False, 40)])
def test_networks_side_by_side_become_what_each_becomes_alone(whole, keep):
    plan = stack.Plan(keep, epochs=8, batch=32, whole=whole)
    both = stack.trained(start([3, 5]), material(), plan, 0)
    for place, seed in enumerate((3, 5)):
        alone = stack.trained(start([seed]), material(), plan, 0)
        for joint, single in zip(both.weights, alone.weights, strict=True):
            assert torch.allclose(joint[place], single[0], atol=1e-5)
    assert not torch.equal(both.first[0], both.first[1])


@pytest.mark.parametrize(("whole", "keep"), [(True, 150), (False, 40)])
def test_networks_as_layers_have_the_number_asked_for_and_the_same_outputs(whole, keep):
    plan = stack.Plan(keep, epochs=6, batch=32, whole=whole)
    begun = start([0, 1], "tanh")
    before = [weight.clone() for weight in begun.weights]
    made = stack.trained(begun, material(), plan, 0)
    assert all(map(torch.equal, begun.weights, before))
    images = material().images
    for place, (network, mask) in enumerate(stack.networks(made)):
        assert sum(mask.count(group) for group in mask.groups) == keep
        assert mask.count(mask.groups[1]) == 60 or not whole
        outputs = network(images / 255)
        assert torch.allclose(outputs, made.logits(images[:, made.pixels])[place].T, atol=1e-4)
        assert (network.get_parameter("fc1.weight")[:, 60:] == 0).all()


def test_the_weights_of_the_last_quarter_are_averaged():
    plan = stack.Plan(260, epochs=8, share=0.0, batch=32, lr=1e-7)
    begun = start([0])
    made = stack.trained(begun, material(), plan, 0)
    assert torch.allclose(made.first, begun.first * made.alive[0], atol=1e-4)
    assert torch.allclose(made.second_bias, begun.second_bias, atol=1e-4)


def test_what_is_learnt_is_labels_and_a_softened_teacher():
    plan, seen = stack.Plan(1, 1, weight=0.7, temperature=2.0), material()
    logits = torch.randn(3, 10, len(seen.labels), requires_grad=True)
    for each in logits:
        told = F.softmax(seen.logits / 2, 1)
        divergence = F.kl_div(F.log_softmax(each.T / 2, 1), told, reduction="batchmean")
        (0.3 * F.cross_entropy(each.T, seen.labels) + 0.7 * 4 * divergence).backward()
    found = stack._slope(logits.detach(), stack._wanted(seen, plan), plan)
    assert torch.allclose(found, logits.grad, atol=1e-6)


def test_weights_are_exchanged_until_nothing_is():
    one = stack.trained(start([0]), material(), stack.Plan(150, 8, share=0.0, batch=32), 0)
    other = stack.trained(start([0]), material(), stack.Plan(150, 8, share=0.6, batch=32), 0)
    assert not torch.equal(one.alive[0], other.alive[0])
    for made in (one, other):
        assert ((made.first != 0) <= made.alive[0]).all()


def test_copies_keep_their_labels_and_a_lesson_needs_no_teacher():
    found = lessons.lessons(2, 0, 50)
    assert found.images.shape == (150, 784)
    assert found.images.dtype == torch.uint8
    assert torch.equal(found.labels[:50], found.labels[50:100])
    assert not found.logits.any()
    assert not torch.equal(found.images[50:100], found.images[100:])
    ink = found.images.float().sum(1)
    assert (ink[50:100] / ink[:50] - 1).abs().max() < 0.3


def test_a_slant_moves_rows_in_proportion_to_their_distance_from_the_centre():
    images = torch.zeros(20, 1, 28, 28)
    images[..., 14] = 1.0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        slanted = distortion.distorted(images, 0.0, 0.2)[:, 0]
    columns = torch.arange(28.0)
    centre = (slanted * columns).sum(2) / slanted.sum(2) - 14
    slope = (centre[:, -1] - centre[:, 0]) / 27
    assert 0.1 < slope.abs().max() <= 0.2 + 1e-3
    lines = slope[:, None] * (torch.arange(28.0) - 13.5)
    assert torch.allclose(centre, lines, atol=0.06)


def every_picture(inputs):
    return torch.tensor(list(product((False, True), repeat=inputs))).repeat(5, 1)


def test_a_decision_list_is_found_again():
    lit = every_picture(4)
    # If 0 is lit then 2; if 3 is lit then 1; otherwise 0.
    labels = torch.where(lit[:, 0], 2, torch.where(lit[:, 3], 1, 0))
    found = decision_list(lit, labels, 9)
    assert found[0] == Rule(((0, True),), 2)
    assert len(found) == 3
    assert [at for at, _ in found[1].conditions] == [3]
    assert torch.equal(predicted(found, lit), labels)
    assert decision_list(lit, labels, 1) == [Rule((), 2)]
    assert decision_list(lit, labels, 2)[0] == found[0]


def test_a_rule_takes_conditions_as_long_as_they_help():
    lit = every_picture(4)
    labels = (lit[:, 1] & ~lit[:, 2] & lit[:, 3]).long()
    found = decision_list(lit, labels, 9)
    assert [set(rule.conditions) for rule in found] == [{(1, True), (2, False), (3, True)}, set()]
    assert len(decision_list(lit, labels, 9, terms=2)[0].conditions) == 2


def test_a_tree_splits_where_it_purifies_most():
    lit = every_picture(3)
    labels = torch.where(lit[:, 1], 2, torch.where(lit[:, 0], 1, 0))
    found = tree(lit, labels, 3)
    assert found == [
        Rule(((1, True),), 2),
        Rule(((1, False), (0, True)), 1),
        Rule(((1, False), (0, False)), 0),
    ]
    assert tree(lit, labels, 8) == found  # a pure leaf is not split
    assert torch.equal(predicted(found, lit), labels)


@pytest.mark.parametrize("learn", [decision_list, tree])
def test_without_inputs_the_commonest_class_is_the_answer(learn):
    labels = torch.tensor([1, 0, 1])
    assert learn(torch.zeros(3, 0, dtype=torch.bool), labels, 4) == [Rule((), 1)]


def test_the_first_rule_that_holds_decides_and_one_must():
    rules = [Rule(((0, True),), 7), Rule(((1, True),), 8)]
    lit = torch.tensor([[True, True], [False, True]])
    assert predicted(rules, lit).tolist() == [7, 8]
    with pytest.raises(ValueError, match="always holds"):
        predicted(rules, torch.tensor([[False, False]]))


def test_a_perceptron_takes_any_activation_that_can_be_made():
    network = mlp("4-3-2", nn.SiLU, lambda: nn.LeakyReLU(0.2))
    assert [type(layer) for layer in list(network)[1::2]] == [nn.SiLU, nn.LeakyReLU]
    assert network[3].negative_slope == 0.2
