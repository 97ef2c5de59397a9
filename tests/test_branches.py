"""Residual branches: finding them, their scores, masks, removal, files and runs."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sentei
from sentei.criteria import ablation, magnitude, taylor1
from sentei.errors import CriterionError, FileError, GroupError, StructureError
from sentei.network.encoding.size import multiply_adds
from sentei.network.parameters import removed_parameters
from sentei.network.tracing.branches import find_branches
from sentei.network.units import Branches
from sentei.network.zeros import Zeros, check_form, stand_ins

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

# Networks. Each entry: how it is made, its inputs, and the names of its branches.

WORDS: dict[str, Any] = {
    "vocab_size": 20,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
}


def ids(length: int = 7) -> Tensor:
    return torch.randint(0, 20, (3, length), generator=torch.Generator().manual_seed(length))


def images(size: int) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0)).double()


def causal(kind: str, **more: Any) -> nn.Module:
    config = getattr(transformers, f"{kind}Config")(**WORDS, **SIZES, use_cache=False, **more)
    return getattr(transformers, f"{kind}ForCausalLM")(config)


def gpt2() -> nn.Module:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "use_cache": False}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**WORDS, **sizes))


def bert() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(**WORDS, **SIZES))


def albert() -> nn.Module:
    return transformers.AlbertModel(transformers.AlbertConfig(**WORDS, **SIZES, embedding_size=8))


def t5() -> nn.Module:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    words = {"vocab_size": 20, "use_cache": False}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**words, **sizes))


def vit() -> nn.Module:
    config = transformers.ViTConfig(**SIZES, image_size=16, patch_size=8)
    return transformers.ViTForImageClassification(config)


def convnext() -> nn.Module:
    sizes = {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}
    config = transformers.ConvNextConfig(**sizes, layer_scale_init_value=0.5, drop_path_rate=0.3)
    return transformers.ConvNextForImageClassification(config)


def encoder(*, norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
    return nn.Sequential(
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)
    )


class Block(nn.Module):
    """A residual block; its shortcut is a convolution where it changes the shape."""

    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = None
        if stride > 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.shortcut is None else self.shortcut(x)
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.blocks = nn.Sequential(Block(4, 4, 1), Block(4, 8, 2), Block(8, 8, 1))
        self.head = nn.Linear(8, 5)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.bias)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.normal_(module.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Inline(nn.Module):
    """Attention, a gate and a feed-forward branch whose layers `forward` calls itself."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down, self.gate = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.full((8,), 0.5))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each.unflatten(-1, (2, 4)).transpose(1, 2) for each in self._qkv(x))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = self.down(self.up(x).relu())
        return self.head(x + self.scale * y * self.gate(y).sigmoid())

    def _qkv(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.qkv(self.norm(x)).chunk(3, -1)


def sequence() -> Tensor:
    return torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0)).double()


def both(first: str, second: str, layers: int = 2) -> list[str]:
    return [name.format(layer) for layer in range(layers) for name in (first, second)]


Made = tuple[Callable[[], nn.Module], Callable[[], Any], list[str]]
ZOO: dict[str, Made] = {
    "gpt2": (
        gpt2,
        lambda: {"input_ids": ids()},
        both("transformer.h.{}.attn", "transformer.h.{}.mlp"),
    ),
    "bert": (
        *(bert, lambda: {"input_ids": ids()}),
        both("encoder.layer.{}.attention.output.dense", "encoder.layer.{}.output.dense"),
    ),
    "llama": (
        *(lambda: causal("Llama", num_key_value_heads=2), lambda: {"input_ids": ids()}),
        both("model.layers.{}.self_attn", "model.layers.{}.mlp"),
    ),
    "gemma2": (
        lambda: causal("Gemma2", num_key_value_heads=2, head_dim=4),
        lambda: {"input_ids": ids()},
        both("model.layers.{}.self_attn", "model.layers.{}.mlp"),
    ),
    "neox": (
        *(lambda: causal("GPTNeoX"), lambda: {"input_ids": ids()}),
        both("gpt_neox.layers.{}.mlp", "gpt_neox.layers.{}.attention"),
    ),
    "t5": (
        *(t5, lambda: {"input_ids": ids(), "decoder_input_ids": ids(5)}),
        [
            "encoder.block.0.layer.0.SelfAttention.o",
            "encoder.block.0.layer.1.DenseReluDense",
            "encoder.block.1.layer.0.SelfAttention",
            "encoder.block.1.layer.1.DenseReluDense",
            "decoder.block.0.layer.0.SelfAttention.o",
            "decoder.block.0.layer.1.EncDecAttention.o",
            "decoder.block.0.layer.2.DenseReluDense",
            "decoder.block.1.layer.0.SelfAttention",
            "decoder.block.1.layer.1.EncDecAttention",
            "decoder.block.1.layer.2.DenseReluDense",
        ],
    ),
    "vit": (vit, lambda: images(16), both("vit.layers.{}.attention", "vit.layers.{}.mlp")),
    "albert": (  # one block, used twice
        *(albert, lambda: {"input_ids": ids()}),
        [
            f"encoder.albert_layer_groups.0.albert_layers.0.{name}"
            for name in ("attention.dense", "ffn_output")
        ],
    ),
    "convnext": (
        *(convnext, lambda: images(32)),
        [
            f"convnext.encoder.stages.{at}.pwconv2"
            for at in ("0.layers.0", "1.layers.0", "1.layers.1")
        ],
    ),
    "pre-norm": (
        *(lambda: encoder(norm_first=True), sequence),
        both("0.layers.{}.self_attn", "0.layers.{}.linear2"),
    ),
    "post-norm": (
        *(lambda: encoder(norm_first=False), sequence),
        both("0.layers.{}.self_attn", "0.layers.{}.linear2"),
    ),
    "resnet": (ResNet, lambda: images(12), [f"blocks.{at}.conv2" for at in range(3)]),
    "inline": (Inline, lambda: sequence()[..., :8], ["out", "down"]),
}
GATELESS = ("gemma2",)  # a norm without a plain scale comes last


CASTS = {"LlamaForCausalLM", "Gemma2ForCausalLM", "LlamaModel", "Gemma2Model"}


class Case:
    """A network of the zoo, its groups, and a loss."""

    def __init__(self, name: str):
        made, inputs, self.names = ZOO[name]
        torch.manual_seed(0)
        self.model = made().double().eval()
        self.inputs = inputs()
        self.groups = sentei.find_units(self.model, self.inputs, depth=True)
        last = self.groups[-1]
        assert isinstance(last, Branches)
        self.branches = last
        self.full = sentei.Mask.full(self.groups)
        self.targets = self.out(self.model) + 1.0

    @property
    def near(self) -> float:
        """How near two networks have to be; the norms of some always compute in float32."""
        return 1e-6 if type(self.model).__name__ in CASTS else 1e-10

    def out(self, model: nn.Module) -> Tensor:
        with torch.no_grad():
            found = model(**self.inputs) if isinstance(self.inputs, dict) else model(self.inputs)
        return self.first(found)

    @staticmethod
    def first(found: Any) -> Tensor:
        return (found if isinstance(found, Tensor) else found[0]).flatten(1).double()

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        return (self.first(outputs) - targets).square().mean(1)

    def mean_loss(self, model: nn.Module) -> Tensor:
        return (self.out(model) - self.targets).square().mean()

    def probe(self, model: nn.Module | None = None) -> sentei.Probe:
        data = self.inputs, self.targets
        return sentei.Probe(self.model if model is None else model, data, self.loss)

    def masked(self, mask: sentei.Mask) -> nn.Module:
        masked = copy.deepcopy(self.model)
        mask.apply_(masked)
        return masked


@pytest.fixture(scope="module", params=sorted(ZOO))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def producer_zeroed(model: nn.Module, names: tuple[str, ...]) -> nn.Module:
    other = copy.deepcopy(model)
    for name in names:
        other.get_parameter(name).data.zero_()
    return other


# Finding.


def test_each_branch_is_one_unit_of_one_group(case: Case):
    kinds = [group.kind for group in case.groups]
    assert kinds.count("branch") == 1
    assert sorted(case.branches.names) == sorted(case.names)
    assert case.branches.size == len(case.names)


def test_without_depth_nothing_changes(case: Case):
    assert sentei.find_units(case.model, case.inputs) == case.groups[:-1]


def test_finding_leaves_the_network_as_it_was(case: Case):
    before = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    find_branches(case.model, case.inputs)
    after = case.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module._forward_hooks for module in case.model.modules())


# Scores.


def test_ablation_equals_a_pass_without_each_branchs_last_layer(case: Case):
    found = ablation(case.probe(), case.branches)
    start = case.mean_loss(case.model)
    want = [
        case.mean_loss(producer_zeroed(case.model, branch.gates or branch.parameters)) - start
        for branch in case.branches.branches
    ]
    assert found.dtype == torch.float64
    assert torch.allclose(found, torch.stack(want), atol=1e-10)
    assert found.abs().min() > 1e-12


def test_taylor1_is_the_derivative_along_a_branchs_gate(case: Case, request: Any):
    if any(name in request.node.name for name in GATELESS):
        with pytest.raises(CriterionError, match="ends in a norm"):
            taylor1(case.probe(), case.branches)
    else:
        step = 1e-3
        want = []
        for branch in case.branches.branches:
            ends = []
            for factor in (1 + step, 1 - step):
                other = copy.deepcopy(case.model)
                for name in branch.gates:
                    other.get_parameter(name).data.mul_(factor)
                ends.append(case.mean_loss(other))
            want.append((ends[1] - ends[0]) / (2 * step))
        found = taylor1(case.probe(), case.branches)
        assert torch.allclose(found, torch.stack(want), rtol=2e-2, atol=1e-4)


# Masks and removal.


def cuts(case: Case) -> list[sentei.Mask]:
    size, branches = case.branches.size, case.branches
    units = {g: range(0, g.size, 3) for g in case.groups if g.kind != "branch" and g.size > 3}
    ends = [case.full.without({branches: some}) for some in ([0], [size - 1], range(0, size, 2))]
    return [*ends, case.full.without({branches: range(size)}), ends[0].without(units)]


def test_masked_is_shrunk(case: Case):
    for mask in cuts(case):
        masked = case.masked(mask)
        small = sentei.shrink(case.model, mask, case.inputs)
        assert torch.allclose(case.out(masked), case.out(small), atol=case.near)
        proof = sentei.certify(masked, small, case.inputs, mask=mask)
        assert proof.difference <= 10 * case.near
        assert not proof.uncompared
        left = sum(parameter.numel() for parameter in small.parameters())
        whole = sum(parameter.numel() for parameter in case.model.parameters())
        assert whole - left == removed_parameters(case.model, mask)
        mask.shrunk().check(small)
        before = multiply_adds(case.model, case.inputs)
        assert multiply_adds(small, case.inputs) < before


def test_a_dead_branch_adds_exact_zeros(case: Case):
    for at, branch in enumerate(case.branches.branches):
        mask = case.full.without({case.branches: [at]})
        by_hand = producer_zeroed(case.model, branch.gates or branch.parameters)
        assert torch.equal(case.out(case.masked(mask)), case.out(by_hand))


def test_a_second_cut_and_the_branches_that_are_left(case: Case):
    first = case.full.without({case.branches: [0]})
    small = sentei.shrink(case.model, first, case.inputs)
    groups = sentei.find_units(small, case.inputs, depth=True)
    left = first.shrunk()
    for held in (left, sentei.Mask.full(groups)):
        units = {g: range(0, g.size, 3) for g in held.groups if g.kind != "branch" and g.size > 3}
        second = held.without({held.groups[-1]: [0]}).without(units)
        smaller = sentei.shrink(small, second, case.inputs)
        masked = copy.deepcopy(small)
        second.apply_(masked)
        assert torch.allclose(case.out(masked), case.out(smaller), atol=case.near)
    assert {g.name for g in groups if g.kind == "branch"} == {
        g.name for g in left.groups if g.kind == "branch"
    }


def test_files_keep_what_stands_in_for_a_branch(case: Case, tmp_path: Any, request: Any):
    mask = case.full.without({case.branches: [0]})
    small = sentei.shrink(case.model, mask, case.inputs)
    sentei.save(small, tmp_path / "a.safetensors", mask.shrunk())
    name = re.findall(r"\[(.+)\]", request.node.name)[0]
    into = ZOO[name][0]().double()
    again = sentei.load(tmp_path / "a.safetensors", into=into)
    assert torch.equal(case.out(again), case.out(small))
    assert stand_ins(again) == stand_ins(small) == dict(mask.stand_ins)


def test_a_run_removes_branches_and_is_resumed(case: Case, tmp_path: Any):
    def run(folder: str, left: int) -> tuple[nn.Module, sentei.Step]:
        model = copy.deepcopy(case.model)
        steps = sentei.prune(
            *(model, [case.branches], case.probe(model)),
            sentei.ranked("ablation", sentei.one_at_a_time()),
            until=lambda now, _: now.units <= left,
            journal=tmp_path / folder,
            resume=(tmp_path / folder).exists(),
        )
        return model, [*steps][-1]

    size = case.branches.size
    run("a", size - 1)
    model, last = run("a", size - 2)
    _, other = run("b", size - 2)
    assert last.mask == other.mask
    assert last.mask.count(case.branches) == size - 2
    for path in (tmp_path / "a").glob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    small = sentei.shrink(model, last.mask, case.inputs)
    assert torch.allclose(case.out(small), case.out(model), atol=1e-10)
    assert last.measured.multiply_adds == multiply_adds(small, case.inputs)
    sentei.save(small, tmp_path / "small.safetensors")
    assert last.measured.bytes == (tmp_path / "small.safetensors").stat().st_size


def test_branches_and_units_share_a_run(case: Case):
    model = copy.deepcopy(case.model)
    *_, last = sentei.prune(
        model, case.groups, case.probe(model), sentei.ranked(magnitude, sentei.linear("70 %", 2))
    )
    small = sentei.shrink(model, last.mask, case.inputs)
    assert torch.allclose(case.out(small), case.out(model), atol=1e-10)
    assert last.measured.multiply_adds == multiply_adds(small, case.inputs)


# Counted by hand.


def test_multiply_adds_of_a_feed_forward_branch():
    case = Case("pre-norm")
    before = multiply_adds(case.model, case.inputs)
    at = case.branches.names.index("0.layers.1.linear2")
    small = sentei.shrink(case.model, case.full.without({case.branches: [at]}), case.inputs)
    assert before - multiply_adds(small, case.inputs) == 5 * (16 * 32 + 32 * 16)
    removed = (16 * 32 + 32) + (32 * 16 + 16) + 2 * 16  # both layers, and the norm before them
    counted = [sum(p.numel() for p in model.parameters()) for model in (case.model, small)]
    assert counted[0] - counted[1] == removed


def test_multiply_adds_of_a_block_with_a_projected_shortcut():
    case = Case("resnet")
    small = sentei.shrink(case.model, case.full.without({case.branches: [1]}), case.inputs)
    saved = multiply_adds(case.model, case.inputs) - multiply_adds(small, case.inputs)
    assert saved == 6 * 6 * (8 * 4 * 9 + 8 * 8 * 9)  # the shortcut, of stride 2, stays
    assert isinstance(small.get_submodule("blocks.1.conv1"), Zeros)
    assert isinstance(small.get_submodule("blocks.1.shortcut.0"), nn.Conv2d)
    bigger = torch.randn(2, 3, 21, 17, dtype=torch.float64)
    masked = case.masked(case.full.without({case.branches: [1]}))
    assert torch.allclose(masked(bigger), small(bigger), atol=1e-10)


# What is no branch.


class Sums(nn.Module):
    """Additions of which no term is a residual branch."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(9, 8), nn.Embedding(5, 8)
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)
        self.shared, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.words(x) + self.places(torch.arange(5).expand_as(x))  # from no common place
        x = self.left(x) + self.right(x)  # none is deeper
        y = self.shared(x.relu())
        return self.head(x + y), y  # an output


def test_terms_without_a_stream_of_their_own_are_no_branches():
    words = torch.randint(0, 9, (2, 5))
    branches, refused = find_branches(Sums().eval(), words)
    assert branches == []
    assert [(each.parameter, each.dim) for each in refused] == [("shared.weight", 0)]
    assert "read elsewhere too" in refused[0].reason
    assert all(g.kind != "branch" for g in sentei.find_units(Sums().eval(), words, depth=True))


class Sigmoid(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(x + self.inner(x).sigmoid())


def test_what_zeros_do_not_silence_is_no_branch():
    x = torch.randn(3, 4)
    branches, (refused,) = find_branches(Sigmoid().eval(), x)
    assert branches == []
    assert (refused.parameter, refused.dim) == ("inner.weight", 0)
    assert "what it adds to the stream is not zero" in refused.reason
    listed = sentei.not_offered(Sigmoid(), x, depth=True)
    assert listed == [*sentei.not_offered(Sigmoid(), x), refused]


def test_inputs_that_inference_mode_made_are_read_as_any_others():
    model, x = ResNet().eval(), images(12).float()
    with torch.inference_mode():
        made = x.clone()
    found, wanted = (sentei.find_units(model, each, depth=True) for each in (made, x))
    assert found == wanted
    assert isinstance(found[-1], Branches)


class Inferring(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            y = x + self.first(x)
            return self.second(y.mul_(2))


def test_a_network_in_inference_mode_has_no_depth():
    with pytest.raises(StructureError, match="outside of that mode"):
        sentei.find_units(Inferring().eval(), torch.randn(3, 4), depth=True)
    with torch.inference_mode(), pytest.raises(StructureError, match="outside of that mode"):
        find_branches(ResNet().eval(), images(12).float())


def test_the_inventory_lists_branches_beside_what_is_refused():
    model = nn.Sequential(ResNet(), nn.Unflatten(1, (1, 5)), nn.Flatten())
    x = images(12).float()
    found = sentei.inventory(model, x, depth=True)
    assert found.groups == sentei.find_units(model, x, depth=True)
    offered = found.offered[-1]
    assert isinstance(offered.group, Branches)
    whole = sum(parameter.numel() for parameter in model.parameters())
    for at, count in enumerate(offered.by_branch):
        mask = sentei.Mask.full([offered.group]).without({offered.group: [at]})
        small = sentei.shrink(model, mask, x)
        assert count == whole - sum(parameter.numel() for parameter in small.parameters()) > 0
    assert offered.parameters == sum(offered.by_branch)
    assert all(each.by_branch == () for each in found.offered[:-1])
    plain = sentei.inventory(model, x)
    assert plain.offered == found.offered[:-1]
    assert plain.removable < found.removable


# Training, other functions, refusals.


def test_shrinking_in_place_forgets_the_optimizers_state():
    case = Case("gpt2")
    model = copy.deepcopy(case.model)
    optimizer = torch.optim.Adam(model.parameters())
    model(**case.inputs).logits.sum().backward()
    optimizer.step()
    mask = case.full.without({case.branches: [1]})
    left = sentei.shrink_(model, mask, optimizer, example=case.inputs)
    own = {id(parameter) for parameter in model.parameters()}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(parameter) for parameter in held} == own
    assert {id(parameter) for parameter in optimizer.state} <= own
    model(**case.inputs).logits.sum().backward()
    optimizer.step()
    left.check(model)


def test_a_branch_stays_silent_in_training():
    case = Case("pre-norm")
    model = copy.deepcopy(case.model).train()
    mask = case.full.without({case.branches: [0]})
    mask.apply_(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(2):
        model(case.inputs).square().sum().backward()
        optimizer.step()
        mask.hold_(model, optimizer)
    small = sentei.shrink(model.eval(), mask, case.inputs)
    assert torch.allclose(case.out(model), case.out(small), atol=1e-10)


@pytest.mark.parametrize("criterion", ["contribution", "variance", "badness", "skeletonization"])
def test_criteria_of_single_outputs_refuse_branches(criterion: str):
    case = Case("inline")
    with pytest.raises(CriterionError, match="'branches' is a group of branches"):
        getattr(sentei.criteria, criterion)(case.probe(), case.branches)


def test_a_repair_refuses_branches():
    case = Case("inline")
    with pytest.raises(CriterionError, match="without a repair"):
        sentei.criteria.Ablation(repair="least_squares")(case.probe(), case.branches)


def test_a_mask_of_another_network_is_refused():
    case = Case("inline")
    with pytest.raises(GroupError, match="is not this model's"):
        case.full.without({case.branches: [0]}).apply_(nn.Linear(2, 2))
    with pytest.raises(GroupError, match="positions in branch group"):
        case.full.without({case.branches: [2]})


def test_a_file_is_refused_by_a_network_without_the_layers(tmp_path: Any):
    case = Case("inline")
    small = sentei.shrink(case.model, case.full.without({case.branches: [0]}), case.inputs)
    sentei.save(small, tmp_path / "a.safetensors")
    with pytest.raises(FileError, match="has no layer 'norm'"):
        sentei.load(tmp_path / "a.safetensors", into=nn.Linear(2, 2))


@pytest.mark.parametrize(
    "form",
    [
        *({"tensor": []}, {"tensor": [3]}, {"tensor": [[0]]}, {"tensor": [[0, "1"]]}),
        *({"tensor": [{"size": -1}]}, {"tensor": [{"rows": ["w"]}]}, {"other": []}, 3, "x"),
        {"tensor": [{"size": 1}, {"size": 2}]},
    ],
)
def test_what_is_no_form_is_refused(form: Any):
    with pytest.raises(ValueError, match=r"no form|no length"):
        check_form(form)
    with pytest.raises(StructureError, match="no layer returns"):
        Zeros({"tensor": [{"rows": ["missing", 0]}]}, nn.Linear(2, 2))


# ONNX.


# torch's older exporter cannot write neox, cut or not, and takes the number of samples of inline as
# constant, since what zeros alone come to is computed when the file is written. What sentei exports
# is tried with other numbers of samples, and then written by the newer one.
NOT_WRITTEN, FIXED = ("neox",), ("inline",)


def written_by_torch(model: nn.Module, names: tuple[str, ...], given: tuple, path: Any) -> None:
    """Write an ONNX file as a user of torch does, with the older exporter, the batch free."""

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, *args: Tensor) -> Tensor:
            found = self.net(**dict(zip(names, args, strict=True))) if names else self.net(*args)
            return found if isinstance(found, Tensor) else found[0]

    axes = {name: {0: "batch"} for name in names or ("input",)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what transformers decides by sizes
        torch.onnx.export(
            First().eval(), given, str(path), dynamo=False, input_names=[*axes], dynamic_axes=axes
        )


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "inline" else pytest.mark.slow) for name in ZOO],
)
def test_onnxruntime_computes_the_network_without_branches(
    name: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
):
    runtime = pytest.importorskip("onnxruntime")
    case = Case(name)
    case.model.float()
    as_dict = case.inputs if isinstance(case.inputs, dict) else {"": case.inputs}
    given = {k: t.float() if t.is_floating_point() else t for k, t in as_dict.items()}
    names = tuple(filter(None, given))
    example = given if names else given[""]
    mask = case.full.without({case.branches: range(0, case.branches.size, 2)})
    small = sentei.shrink(case.model, mask, example)
    assert stand_ins(small)

    def first(model: nn.Module, some: Any) -> Tensor:
        found = model(**some) if isinstance(some, dict) else model(some)
        return found if isinstance(found, Tensor) else found[0]

    sentei.export(small, tmp_path / "ours.onnx", example, forward=first)
    assert not [record for record in caplog.records if "batch" in record.message]
    counts = {"ours.onnx": (3, 1, 5)}
    if name not in NOT_WRITTEN:
        written_by_torch(small, names, tuple(given.values()), tmp_path / "theirs.onnx")
        counts["theirs.onnx"] = (3,) if name in FIXED else (3, 1, 5)
    for path, tried in counts.items():
        session = runtime.InferenceSession(tmp_path / path, providers=["CPUExecutionProvider"])
        for count in tried:
            some = {k: torch.cat([t, t.flip(0)])[:count] for k, t in given.items()}
            feeds = [t.numpy() for t in some.values()]
            inputs = [each.name for each in session.get_inputs()]
            found = session.run(None, dict(zip(inputs, feeds, strict=True)))[0]
            with torch.no_grad():
                want = first(small, some if names else some[""])
            assert torch.allclose(torch.as_tensor(found), want, atol=1e-4)
