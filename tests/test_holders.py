"""Sizes outside tensors: integers of modules and of the configurations that they share."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sentei
from sentei.network.example import undisturbed
from sentei.network.holders import holders, public_numbers
from sentei.network.surgery import surgery
from sentei.network.surgery.certificate import certify
from sentei.network.tracing.decoding import Tracer
from sentei.network.tracing.grouping import groups
from sentei.network.tracing.tracing import record

WIDTH, HEADS = 24, 4


@dataclass
class Config:
    heads: int = HEADS
    hidden: int = WIDTH
    layers: int = 2


class Aliased:
    """A configuration whose attribute is read under another name."""

    def __init__(self):
        self.n_head, self.layers = HEADS, 2

    def __getattr__(self, name):
        if name == "heads":
            return self.n_head
        raise AttributeError(name)


CONFIGS = {
    "dataclass": Config,
    "namespace": lambda: SimpleNamespace(heads=HEADS, layers=2),
    "aliased": Aliased,
}


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.config.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.stem, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.blocks = nn.ModuleList(Attention(config) for _ in range(config.layers))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean(1))


def encoder(kind, layers=2):
    torch.manual_seed(0)
    config = CONFIGS[kind]()
    config.layers = layers
    net, x = Encoder(config), torch.randn(4, 5, 6)
    heads = heads_of(net, x)
    assert len(heads) == layers
    return net, x, heads


def heads_of(net, x):
    """The heads of each layer by themselves; only those of all layers together are offered."""
    with undisturbed(net):
        tracer = Tracer(record(net, x, inputs=False)[0])
        tracer.trace()
    return [group for group in groups(tracer) if group.kind == "head"]


def test_heads_that_a_shared_configuration_counts_are_offered_together():
    net, x, heads = encoder("dataclass", 3)
    (offered,) = (group for group in sentei.find_units(net, x) if group.kind == "head")
    assert offered.size == HEADS
    assert {part.parameter for part in offered.producers} == {
        part.parameter for group in heads for part in group.producers
    }
    mask = sentei.Mask.full([offered]).without({offered: [1]})
    small = sentei.shrink(net, mask, example=x)
    assert small.config.heads == 3
    assert torch.allclose(small(x), masked(net, mask)(x), atol=1e-5)


def masked(net, mask):
    net = surgery.copied(net)
    mask.apply_(net)
    return net


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_configuration_follows_where_every_layer_agrees(kind, layers, tmp_path):
    net, x, heads = encoder(kind, layers)
    mask = sentei.Mask.full(heads).without({group: [at % HEADS] for at, group in enumerate(heads)})
    small = sentei.shrink(net, mask, example=x)
    assert small.config.heads == 3
    assert net.config.heads == HEADS
    assert small.config.layers == layers
    assert torch.allclose(small(x), masked(net, mask)(x), atol=1e-5)
    sentei.save(small, tmp_path / "small.safetensors")
    again = sentei.load(tmp_path / "small.safetensors", into=encoder(kind, layers)[0])
    assert torch.equal(again(x), small.eval()(x))
    sentei.shrink_(net, mask, example=x)
    assert net.config.heads == 3
    assert torch.allclose(net(x), small(x))


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_configuration_stays_where_layers_disagree(kind):
    net, x, heads = encoder(kind)
    mask = sentei.Mask.full(heads).without({heads[0]: [0], heads[1]: [1, 2]})
    with pytest.raises(sentei.CertificateError, match=r"blocks\.0\.qkv.*blocks\.1\.qkv"):
        sentei.shrink(net, mask, example=x)
    assert net.config.heads == HEADS


def test_a_refusal_costs_a_handful_of_certificates(monkeypatch):
    net, x, heads = encoder("dataclass", 3)
    mask = sentei.Mask.full(heads).without({heads[0]: [0], heads[1]: [1, 2], heads[2]: [3]})
    made = []

    def counted(*given, **settings):
        made.append(given)
        return certify(*given, **settings)

    monkeypatch.setattr(surgery, "certify", counted)
    with pytest.raises(sentei.CertificateError):
        sentei.shrink(net, mask, example=x)
    assert len(made) <= 4


def test_holders_are_modules_and_plain_objects_once():
    net, _, _ = encoder("dataclass")
    paths = [path for path in holders(net) if ":" in path]
    assert paths == [":config"]
    assert public_numbers(net) == {":config": {"heads": HEADS, "hidden": WIDTH, "layers": 2}}
    net.note, net.list, net.function, net.kind = "text", [1], torch.sin, Config
    net.generator, net._hidden = torch.Generator(), Config()
    sentei.set_card_(net, sentei.Card("cross_entropy"))
    assert [path for path in holders(net) if ":" in path] == paths


class Grouped(nn.Module):
    """Twice as many query heads as key heads; the module counts both, or the configuration."""

    def __init__(self, config, own):
        super().__init__()
        self.config, self.own = config, own
        self.query_heads, self.key_heads = 2 * config.heads, config.heads
        size = WIDTH // HEADS
        self.q, self.kv = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.proj, self.size = nn.Linear(2 * WIDTH, WIDTH), size

    def forward(self, x):
        b, n, _ = x.shape
        many = self.query_heads if self.own else self.config.query_heads
        q = self.q(x).reshape(b, n, many, self.size).transpose(1, 2)
        k, v = self.kv(x).reshape(b, n, 2, self.key_heads, self.size).permute(2, 0, 3, 1, 4)
        k, v = (each.repeat_interleave(2, 1) for each in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.proj(mixed.reshape(b, n, many * self.size))


@pytest.mark.parametrize("own", [True, False])
def test_multiples_of_unit_counts_follow(own):
    torch.manual_seed(0)
    config = Config()
    config.query_heads = 2 * HEADS
    net, x = Encoder(config), torch.randn(4, 5, 6)
    blocks = [Grouped(config, own) for _ in range(config.layers)]
    net.blocks = nn.ModuleList(blocks)
    heads = heads_of(net, x)
    assert {part.index.shape[1] for part in heads[0].listeners} == {2 * WIDTH // HEADS}
    mask = sentei.Mask.full(heads).without({group: [1] for group in heads})
    small = sentei.shrink(net, mask, example=x)
    cut = [block for block in small.modules() if isinstance(block, Grouped)]
    assert [block.key_heads for block in cut] == [3, 3]
    assert (config.query_heads, small.config.query_heads) == (8, 8 if own else 6)
    assert [block.query_heads for block in cut] == ([6, 6] if own else [8, 8])
    assert torch.allclose(small(x), masked(net, mask)(x), atol=1e-5)
