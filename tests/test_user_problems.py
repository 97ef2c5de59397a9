"""What users of pruning libraries report most, each in the few lines that they would write.

Every network here is a user's own class, or one of transformers with random weights. Each problem
works, or is refused with the remedy.
"""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import sentei
from sentei import Mask, Probe, find_units, prune, ranked, shrink
from sentei.errors import StructureError
from sentei.network.copying import copied

X = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 5


def smaller(model, example, groups=None, part=3):
    """Remove a third of every group; check the outputs of the smaller network by hand."""
    model.eval()
    groups = find_units(model, example) if groups is None else groups
    doomed = {group: torch.arange(group.size)[: group.size // part] for group in groups}
    mask = Mask.full(groups).without(doomed)
    masked = copied(model)  # find_units leaves what the network keeps as it was
    mask.apply_(masked)
    small = shrink(masked, mask, example)
    call = (lambda net: net(**example)) if isinstance(example, dict) else lambda net: net(example)
    with torch.no_grad():
        for a, b in zip(outputs(call(masked)), outputs(call(small)), strict=True):
            assert torch.allclose(a, b, atol=1e-5)
    assert parameters(small) < parameters(model)
    return small


def outputs(found):
    return [t for t in torch.utils._pytree.tree_leaves(found) if isinstance(t, torch.Tensor)]


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def head(width, classes=5):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def conv(inputs, units, kernel=3, **more):
    return nn.Sequential(
        nn.Conv2d(inputs, units, kernel, padding=kernel // 2, bias=False, **more),
        nn.BatchNorm2d(units),
        nn.SiLU(),
    )


# Structures.


class C2f(nn.Module):
    """YOLOv8's block: half of the channels pass through bottlenecks, all parts are joined."""

    def __init__(self, width=12):
        super().__init__()
        self.half = width // 2
        self.first, self.inner = conv(3, width, 1), nn.ModuleList(conv(6, 6) for _ in range(2))
        self.last, self.head = conv(24, 10, 1), head(10)

    def forward(self, x):
        parts = list(self.first(x).split((self.half, self.half), 1))
        parts.extend(block(parts[-1]) for block in self.inner)
        return self.head(self.last(torch.cat(parts, 1)))


def test_the_split_of_a_c2f_block_is_cut():
    small = smaller(C2f(), X[:2])
    assert small.first[0].out_channels < 12


class WindowAttention(nn.Module):
    """Swin's attention: heads in one packed layer, and a table of biases with a column a head."""

    def __init__(self, width=24, heads=6, window=4):
        super().__init__()
        self.heads, self.width = heads, width
        self.embed, self.qkv = nn.Linear(3, width), nn.Linear(width, 3 * width)
        self.table = nn.Parameter(torch.randn(2 * window - 1, heads))
        at = torch.arange(window)
        self.register_buffer("index", at[:, None] - at[None] + window - 1)
        self.out = nn.Linear(width, 5)

    def forward(self, x):
        n, steps, _ = x.shape
        h = self.embed(x)
        qkv = self.qkv(h).reshape(n, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.flatten()].view(steps, steps, -1).permute(2, 0, 1)
        weights = (qkv[0] @ qkv[1].transpose(-2, -1) / 2 + bias).softmax(-1)
        return self.out((weights @ qkv[2]).transpose(1, 2).flatten(2))


def test_heads_with_a_table_of_relative_positions_are_cut():
    model, x = WindowAttention(), torch.randn(2, 4, 3)
    heads = [group for group in find_units(model, x) if group.kind == "head"]
    small = smaller(model, x, heads)
    assert small.table.shape == (7, 4)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.lstm = nn.Embedding(20, 6), nn.LSTM(6, 9, 2, batch_first=True)
        self.out = nn.Linear(9, 4)

    def forward(self, words):
        return self.out(self.lstm(self.words(words))[0]).movedim(-1, 1)


def test_an_lstm_is_ranked_and_cut():
    torch.manual_seed(0)
    model, words = Tagger(), torch.randint(20, (16, 7))
    probe = Probe(model, (words, torch.randint(4, (16, 7))))
    groups = find_units(model, words)
    steps = list(prune(model, groups, probe, ranked("ablation", sentei.one_shot("50 %"))))
    small = shrink(model, steps[-1].mask, words)
    assert small.lstm.hidden_size < 9
    assert torch.allclose(small(words), model(words), atol=1e-5)


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's unit: half of the channels pass by, and channels of both are mixed."""

    def __init__(self):
        super().__init__()
        self.stem, self.branch, self.last = conv(3, 16, 1), conv(8, 8), conv(16, 12, 1)
        self.head = head(12)

    def forward(self, x):
        left, right = self.stem(x).chunk(2, 1)
        joined = torch.cat((left, self.branch(right)), 1)
        n, c, height, width = joined.shape
        mixed = joined.view(n, 2, c // 2, height, width).transpose(1, 2).reshape(joined.shape)
        return self.head(self.last(mixed))


def test_shuffled_channels_are_cut():
    assert smaller(ShuffleUnit(), X[:2]).last[0].in_channels < 16


def test_weight_norm_is_cut_through_to_its_weights():
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 12)), nn.ReLU(), nn.Linear(12, 3)
    )
    small = smaller(model, torch.randn(4, 6))
    assert small[0].parametrizations.weight.original1.shape == (8, 6)


class QKNorm(nn.Module):
    def __init__(self, width=16, heads=4):
        super().__init__()
        self.heads, size = heads, width // heads
        self.q, self.k, self.v = (nn.Linear(8, width) for _ in range(3))
        self.q_norm, self.k_norm, self.out = (
            nn.LayerNorm(size),
            nn.LayerNorm(size),
            nn.Linear(16, 5),
        )

    def forward(self, x):
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.out(mixed.transpose(1, 2).flatten(2).mean(1))


def test_heads_with_norms_of_queries_and_keys_are_cut():
    model, x = QKNorm(), torch.randn(2, 5, 8)
    heads = [group for group in find_units(model, x) if group.kind == "head"]
    assert smaller(model, x, heads).out.in_features == 12


class WithLora(nn.Module):
    """A frozen linear layer with a trained update of rank 2, as LoRA adds it."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def test_a_layer_with_lora_is_cut_with_its_update():
    model = nn.Sequential(WithLora(nn.Linear(6, 12)), nn.ReLU(), WithLora(nn.Linear(12, 3)))
    small = smaller(model, torch.randn(4, 6))
    assert small[0].base.out_features == small[0].up.out_features == 8
    assert small[2].down.in_features == 8


class Auxiliary(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head, self.auxiliary = conv(3, 9), conv(9, 9), head(9), head(9)

    def forward(self, x):
        h = self.stem(x)
        found = self.head(self.body(h))
        return (found, self.auxiliary(h)) if self.training else found


def test_an_auxiliary_head_of_training_is_cut_too():
    small = smaller(Auxiliary(), X[:2])
    assert small.auxiliary[2].in_features == small.body[0].in_channels == 6
    assert len(small.train()(X)) == 2


def test_a_network_that_holds_tensors_with_a_history():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 9), nn.Linear(9, 3)

        def forward(self, x):
            self.kept = self.first(x).relu()
            return self.last(self.kept)

    model = Remembers()
    model(torch.randn(4, 6)).sum().backward()
    assert model.kept.grad_fn is not None
    assert smaller(model, torch.randn(4, 6)).first.out_features == 6


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel])
def test_a_compiled_or_parallel_network(wrap):
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)).eval()
    small = smaller(wrap(model), torch.randn(4, 6))
    assert [tuple(p.shape) for p in small.parameters()] == [(6, 6), (6,), (3, 6), (3,)]


class Detector(nn.Module):
    """A two-stage detector: the number of its outputs depends on the values."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(conv(3, 9), conv(9, 9))
        self.scores, self.boxes = nn.Conv2d(9, 1, 1), nn.Linear(9, 4)

    def forward(self, x):
        h = self.backbone(x)
        where = (self.scores(h).sigmoid() > 0.5).squeeze(1).nonzero(as_tuple=True)
        return self.boxes(h.movedim(1, -1)[where])


def test_a_detector_is_cut_by_its_backbone():
    torch.manual_seed(0)
    model = Detector().eval()
    with pytest.raises(StructureError, match="forward="):
        find_units(model, X[:2])
    groups = find_units(model, X[:2], forward=lambda m, x: m.backbone[1](m.backbone[0](x)))
    assert [group.name for group in groups] == ["backbone.0.0"]
    mask = Mask.full(groups).without({groups[0]: [0, 1, 2]})
    mask.apply_(model)
    small = shrink(model, mask, X[:2], forward=lambda m, x: m.backbone(x))
    assert small.backbone[1][0].in_channels == 6
    assert torch.allclose(small(X), model(X), atol=1e-5)


# Targets and data.


def test_structured_targets_with_a_loss_of_all_outputs():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.kind, self.box = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 4)

        def forward(self, x):
            h = self.body(x).relu()
            return {"kind": self.kind(h), "box": self.box(h)}

    def loss(outputs, targets):
        kinds = F.cross_entropy(outputs["kind"], targets["kind"], reduction="none")
        return kinds + F.l1_loss(outputs["box"], targets["box"], reduction="none").sum(1)

    model, x = TwoHeads(), torch.randn(24, 6)
    batches = [
        {"image": part, "labels": {"kind": torch.arange(8) % 3, "box": torch.randn(8, 4)}}
        for part in x.split(8)
    ]
    probe = Probe(model, batches, loss, batch=lambda b: (b["image"], b["labels"]))
    group = find_units(model, x)[0]
    assert (probe.losses_without(group) - probe.loss()).abs().max() > 0


def test_segmentation_with_an_ignored_class():
    model = nn.Sequential(conv(3, 6), nn.Conv2d(6, 4, 1)).eval()
    labels = torch.randint(4, (12, 16, 16), generator=torch.Generator().manual_seed(1))
    labels[:, :5] = -100
    probe = Probe(model, (X, labels))
    with torch.no_grad():
        found = model(X)
    assert probe.loss() == pytest.approx(float(F.cross_entropy(found, labels)), rel=1e-5)
    right = (found.argmax(1) == labels)[labels != -100].float().mean()
    assert probe.accuracy() == pytest.approx(float(right))


LARGE = """
import sys, torch, resource
from torch import nn
from torch.utils.data import DataLoader, Dataset
import sentei

class Images(Dataset):
    def __len__(self):
        return int(sys.argv[1])
    def __getitem__(self, i):
        return torch.full((3, 64, 64), i % 1000 / 1000), i % 10

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
)
sentei.find_units(model, torch.rand(2, 3, 64, 64))
probe = sentei.Probe(model, [(torch.rand(8, 3, 64, 64), torch.zeros(8).long())])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
probe = sentei.Probe(model, DataLoader(Images(), batch_size=100), memory=sys.argv[2])
print(len(probe.samples), probe.loss())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mib(rows, memory):
    """Return the megabytes that a Probe of so many images adds, and the peak of the process."""
    given = [sys.executable, "-c", LARGE, str(rows), memory]
    lines = subprocess.run(given, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[1].startswith(f"{rows} ")
    return (int(lines[2]) - int(lines[0])) / 1024, int(lines[2]) / 1024


@pytest.mark.slow
def test_a_loader_larger_than_memory():
    """8,000 images take 375 MiB; a Probe of 16 MiB has a block of them, and recordings of 8 MiB."""
    added, _ = peak_mib(8000, "16 MiB")
    assert added < 188


@pytest.mark.slow
def test_a_loader_of_200_000_images_takes_less_than_a_gibibyte():
    assert peak_mib(200_000, "512 MiB")[1] < 1024


# Networks of transformers.


@pytest.fixture(scope="module")
def transformers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield pytest.importorskip("transformers", reason="pip install transformers")


WORDS = {"input_ids": torch.arange(16).view(2, 8)}


def test_gpt2_is_cut(transformers):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2,
        n_embd=24,
        n_head=6,
        n_positions=8,
        vocab_size=20,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    small = smaller(transformers.GPT2LMHeadModel(config), WORDS)
    attention = small.transformer.h[0].attn
    assert attention.c_proj.weight.shape == (16, 16)  # of 24 values of heads, and of the stream


def test_grouped_query_attention_is_saved_and_read_again(transformers, tmp_path):
    """As transformers saves it, nothing reads it; as sentei saves it, transformers itself does."""
    from sentei.integrations.transformers import save_pretrained

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        num_hidden_layers=2,
        hidden_size=24,
        intermediate_size=30,
        vocab_size=20,
        num_attention_heads=6,
        num_key_value_heads=3,
        use_cache=False,
    )
    small = smaller(transformers.LlamaForCausalLM(config), WORDS)
    assert small.model.layers[0].self_attn.k_proj.out_features == 8
    small.save_pretrained(tmp_path / "folder")
    with pytest.raises(RuntimeError, match="mismatch"):
        transformers.LlamaForCausalLM.from_pretrained(tmp_path / "folder")
    sentei.save(small, tmp_path / "small.safetensors")
    whole = transformers.LlamaForCausalLM(config)
    again = sentei.load(tmp_path / "small.safetensors", into=whole)
    assert torch.equal(again(**WORDS).logits, small(**WORDS).logits)
    assert save_pretrained(small, tmp_path / "plain", WORDS).plain
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert torch.equal(plain(**WORDS).logits, small(**WORDS).logits)
    assert plain.config.num_key_value_heads == 2


def test_global_response_norms_are_listed_with_the_reason(transformers):
    config = transformers.ConvNextV2Config(
        hidden_sizes=[6, 8], depths=[1, 1], num_stages=2, num_labels=3, image_size=32
    )
    model = transformers.ConvNextV2ForImageClassification(config).eval()
    example = {"pixel_values": torch.randn(1, 3, 32, 32)}
    reasons = {each.parameter: each.reason for each in sentei.not_offered(model, example)}
    assert (
        "units of a stream can go where"
        in reasons["convnextv2.encoder.stages.0.layers.0.pwconv1.weight"]
    )


# Training and files.


def test_per_layer_ratios_exclusions_and_multiples():
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 32), conv(32, 24), conv(24, 16), head(16)).eval()
    groups = sentei.pick(find_units(model, X), without=("2.*",))
    probe = Probe(model, (X, Y))
    propose = ranked(
        "magnitude", sentei.one_shot("40 %"), keep={"0.*": "75 %"}, at_least=8, multiples_of=8
    )
    *_, last = prune(model, groups, probe, propose)
    small = shrink(model, last.mask, X)
    widths = [small[i][0].out_channels for i in range(3)]
    assert widths[0] >= 24
    assert widths[1] >= 8
    assert widths[2] == 16
    assert all(width % 8 == 0 for width in widths)


def test_a_budget_in_multiply_adds_and_one_in_milliseconds():
    torch.manual_seed(0)
    for until in (sentei.multiply_adds_at_most("50 %"), sentei.latency_at_most("1 s")):
        model = nn.Sequential(conv(3, 12), conv(12, 12), head(12)).eval()
        groups = find_units(model, X)
        probe = Probe(model, (X, Y))
        propose = ranked("magnitude", sentei.one_at_a_time())
        steps = list(prune(model, groups, probe, propose, until=until))
        small = shrink(model, steps[-1].mask, X)
        before = 16 * 16 * 9 * (3 * 12 + 12 * 12) + 12 * 5
        after = sum(
            16 * 16 * 9 * block[0].in_channels * block[0].out_channels for block in small[:2]
        )
        assert (after < before * 0.5) == (len(steps) > 1)


def test_an_own_metric_is_the_floor():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    x = torch.randn(60, 6)
    y = model(x).argmax(1)

    def macro_recall(network):
        found = network(x).argmax(1)
        classes = [(found[y == k] == k).float().mean() for k in y.unique()]
        return float(torch.stack(classes).mean())

    probe = Probe(model, (x, y))
    propose = ranked("magnitude", sentei.one_at_a_time())
    steps = list(
        prune(
            *(model, find_units(model, x), probe, propose),
            evaluate=macro_recall,
            keeping=sentei.metric_at_least("metric", 0.9),
        )
    )
    assert len(steps) > 1
    assert macro_recall(model) == steps[-1].measured.metrics["metric"] >= 0.9


def test_lottery_tickets_are_rewound_by_a_plain_function():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    start, x = copy.deepcopy(model.state_dict()), torch.randn(60, 6)
    y = x[:, 0].gt(0).long()

    def rewind_and_train(network, mask):
        network.load_state_dict(start)
        mask.apply_(network)
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
            mask.apply_(network)

    groups = sentei.find_synapses(model)
    propose = ranked("magnitude", sentei.linear("50 %", steps=3))
    *_, last = prune(model, groups, Probe(model, (x, y)), propose, retrain=rewind_and_train)
    alive = last.mask.alive(groups[0]).view(16, 6)
    assert (model[0].weight[~alive] == 0).all()
    assert not torch.equal(model[0].weight[alive], start["0.weight"][alive])
