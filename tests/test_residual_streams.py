"""Residual streams: the width that norms read is one group, and cuts of it are exact."""

import copy
import os

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sentei
from sentei import Mask
from sentei.network.copying import copied
from sentei.network.counted_norm import CountedLayerNorm

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing is loaded from a hub

D = 12


class Centred(nn.Module):
    """A layer norm written by hand."""

    def __init__(self, width=D):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.epsilon = 1e-3

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        spread = centred.pow(2).mean(-1, keepdim=True)
        return self.weight * centred / (spread + self.epsilon).sqrt() + self.bias


class Root(nn.Module):
    """A root mean square norm written by hand; `minus` is subtracted from its scale."""

    def __init__(self, width=D, minus=0.0):
        super().__init__()
        self.scale, self.minus, self.tiny = nn.Parameter(torch.ones(width) - minus), minus, 1e-3

    def forward(self, x):
        square = x.pow(2).mean(-1, keepdim=True)
        return x * torch.rsqrt(square + self.tiny) * (self.scale + self.minus)


class Channels(nn.Module):
    """A layer norm over the channels of pictures."""

    def __init__(self, width=D):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.eps = 1e-4

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / ((x - mean).pow(2).mean(1, keepdim=True) + self.eps).sqrt()
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Length(nn.Module):
    """A norm without a count: units are divided by their length."""

    def __init__(self, width=D):
        super().__init__()
        self.g = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.normalize(x, dim=-1) * self.g


class Blocks(nn.Module):
    """Blocks that add to a stream, with norms before them or behind the sums."""

    def __init__(self, norm, after=False):
        super().__init__()
        self.words, self.places = nn.Embedding(9, D), nn.Parameter(torch.randn(1, 5, D))
        self.first = nn.Parameter(torch.randn(1, 1, D))
        self.up = nn.ModuleList(nn.Linear(D, 7) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(7, D) for _ in range(2))
        self.gain = nn.Parameter(torch.rand(D) + 0.5)
        self.norms = nn.ModuleList(norm() for _ in range(2))
        self.final, self.head = norm(), nn.Linear(D, 4)
        self.drop, self.after = nn.Dropout(0.2), after

    def forward(self, x):
        h = self.words(x) + self.places
        h = torch.cat([self.first.expand(len(x), -1, -1), h], 1)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            own = h if self.after else norm(h)
            h = h + self.drop(down(up(own).relu())) * self.gain
            h = norm(h) if self.after else h
        return self.head(self.final(h)[:, 0])


class Pictures(nn.Module):
    """Depthwise convolutions on a stream of channels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, D, 3, padding=1)
        self.wide = nn.Conv2d(D, D, 3, padding=1, groups=D)
        self.norm, self.up, self.down = Channels(), nn.Conv2d(D, 7, 1), nn.Conv2d(7, D, 1)
        self.head = nn.Linear(D, 4)

    def forward(self, x):
        h = self.stem(x)
        h = h + self.down(self.up(self.norm(self.wide(h))).relu())
        return self.head(h.mean((2, 3)))


class Encoder(nn.Module):
    """torch's own transformer layers."""

    def __init__(self, first=True):
        super().__init__()
        self.words = nn.Embedding(9, D)
        layer = nn.TransformerEncoderLayer(D, 3, 10, 0.1, batch_first=True, norm_first=first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(D, 4)

    def forward(self, x):
        return self.head(self.encoder(self.words(x)).mean(1))


def words():
    return torch.randint(0, 9, (3, 5))


HAND = {
    "before": lambda: (Blocks(lambda: nn.LayerNorm(D)), words()),
    "behind": lambda: (Blocks(lambda: nn.LayerNorm(D), after=True), words()),
    "without shifts": lambda: (Blocks(lambda: nn.LayerNorm(D, bias=False)), words()),
    "rms": lambda: (Blocks(lambda: nn.RMSNorm(D)), words()),
    "rms behind": lambda: (Blocks(lambda: nn.RMSNorm(D, eps=1e-2), after=True), words()),
    "centred by hand": lambda: (Blocks(Centred, after=True), words()),
    "root by hand": lambda: (Blocks(Root), words()),
    "root less one": lambda: (Blocks(lambda: Root(minus=1.0)), words()),
    "length": lambda: (Blocks(Length), words()),
    "pictures": lambda: (Pictures(), torch.randn(2, 3, 6, 6)),
    "torch before": lambda: (Encoder(), words()),
    "torch behind": lambda: (Encoder(first=False), words()),
}


def shaken(model):
    """A network in float64 whose norms and biases are not those of a new one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double().eval()


def made(name):
    torch.manual_seed(0)
    model, x = HAND[name]()
    return shaken(model), x.double() if x.is_floating_point() else x


def streams(model, x, forward=None):
    found = [g for g in sentei.find_units(model, x, forward=forward) if g.kind == "stream"]
    assert found, sentei.not_offered(model, x, forward=forward)
    return found


def cut(groups, start=0):
    return Mask.full(groups).without({g: range(start, g.size, 3) for g in groups})


def masked_by(model, mask):
    masked = copied(model)
    mask.apply_(masked)
    return masked


def apart(a, b):
    return float((a - b).abs().max() / a.abs().max())


@pytest.mark.parametrize("name", HAND)
def test_a_third_of_the_width_goes_and_nothing_is_left_uncompared(name):
    model, x = made(name)
    (group,) = streams(model, x)
    assert group.size == D
    mask = cut([group])
    masked, small = masked_by(model, mask), sentei.shrink(model, mask, x)
    with torch.no_grad():
        assert apart(masked(x), small(x)) < 1e-10
        assert apart(model(x), masked(x)) > 1e-3
    certificate = sentei.certify(masked, small, x, mask=mask)
    replaced = name in ("centred by hand", "pictures")  # whose norms were no layer norms of torch
    assert all(each.startswith("norms in") for each in certificate.uncompared)
    assert bool(certificate.uncompared) == replaced
    wide = [p for p in small.parameters() if D in p.shape]
    assert not [p.shape for p in wide if "torch" not in name], "a row of the stream is left"


@pytest.mark.parametrize("name", HAND)
def test_a_second_cut_counts_what_the_first_one_counted(name):
    model, x = made(name)
    (group,) = streams(model, x)
    first = cut([group])
    small = sentei.shrink(model, first, x)
    (left,) = streams(small, x)
    second = cut([left], start=1)
    smaller = sentei.shrink(small, second, x)
    alive = first.alive(group).nonzero().flatten()
    both = first.without({group: alive[~second.alive(left)]})
    with torch.no_grad():
        assert apart(masked_by(model, both)(x), smaller(x)) < 1e-10


@pytest.mark.parametrize("name", ["before", "behind", "rms", "root less one", "pictures"])
def test_exact_ablation_is_that_of_masked_copies(name):
    model, x = made(name)
    (group,) = streams(model, x)
    y = torch.arange(len(x)) % 4
    probe = sentei.Probe(model, (x, y))

    def loss(network):
        with torch.no_grad():
            return F.cross_entropy(network(x), y)

    want = [loss(masked_by(model, Mask.full([group]).without({group: [u]}))) for u in range(D)]
    rises = probe.rises_without(group)
    assert torch.allclose(rises, torch.stack(want) - loss(model), atol=1e-12)
    assert rises.abs().max() > 1e-3
    dead = Mask.full([group]).without({group: [2, 5]})
    dead.apply_(model)
    probe.update_(dead)
    again = probe.rises_without(group)
    assert again[[2, 5]].tolist() == [0, 0]
    whole = Mask.full([group]).without({group: [2, 5, 7]})
    assert torch.allclose(again[7], loss(masked_by(model, whole)) - loss(model), atol=1e-12)


def test_what_a_stream_does_not_allow_is_refused():
    model, x = made("before")
    (group,) = streams(model, x)
    probe = sentei.Probe(model, (x, torch.arange(len(x)) % 4))
    with pytest.raises(sentei.GroupError, match="not repaired"):
        sentei.criteria.Ablation("least_squares")(probe, group)
    with pytest.raises(sentei.CriterionError, match="gains are 0 or 1"):
        probe.rises_at(group, None, torch.tensor([0.5]))
    assert probe.rises_at(group, [3], torch.tensor([0.0, 1.0]))[0, 1] == 0


def test_it_learns_with_its_optimizer_and_is_saved(tmp_path):
    for name in ("behind", "rms", "root less one", "centred by hand"):
        model, x = made(name)
        (group,) = streams(model, x)
        mask = cut([group])
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for network in (model.train(),):
            network(x).square().mean().backward()
            optimizer.step()
        sentei.shrink_(model, mask, optimizer, example=x)
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
            optimizer.step()
        model.eval()
        sentei.save(model, tmp_path / "small.safetensors")
        torch.manual_seed(1)
        again = sentei.load(tmp_path / "small.safetensors", into=HAND[name]()[0].double()).eval()
        with torch.no_grad():
            assert torch.equal(again(x), model(x))
            other = copy.deepcopy(model)
            other.load_state_dict(again.state_dict())
            assert torch.equal(other(x), model(x))


def test_a_row_of_layers_is_saved_with_its_description(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 9), nn.LayerNorm(9), nn.Tanh(), nn.Linear(9, 3))
    x = torch.randn(5, 4)
    (group,) = streams(model, x)
    small = sentei.shrink(model, cut([group]), x)
    assert isinstance(small[1], CountedLayerNorm)
    assert (small[1].width, small[1].count) == (6, 9)
    sentei.save(small, tmp_path / "small.safetensors")
    assert torch.equal(sentei.load(tmp_path / "small.safetensors")(x), small(x))


def test_counts_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="at least the entries that are left"):
        CountedLayerNorm(4, 3)
    with pytest.raises(ValueError, match="counted from the end"):
        CountedLayerNorm(3, 4, axis=1)


# What is wrong is refused.


def forgets_its_count(small):
    next(m for m in small.modules() if isinstance(m, CountedLayerNorm)).count -= 1


def leaves_a_scale(small):
    norm = [m for m in small.modules() if isinstance(m, (CountedLayerNorm, nn.RMSNorm))][-1]
    norm.weight.data = norm.weight.data * 1.05


def swaps_columns(small):
    small.up[0].weight.data = small.up[0].weight.data.flip(1)


def swaps_rows(small):
    small.words.weight.data = small.words.weight.data.roll(1, 1)


def forgets_eps(small):
    norm = next(m for m in small.modules() if isinstance(m, nn.RMSNorm))
    assert norm.eps is not None
    norm.eps = norm.eps / 1.5


SWAPS = (leaves_a_scale, swaps_columns, swaps_rows)
WRONG = [
    *(("before", wrong) for wrong in (forgets_its_count, *SWAPS)),
    *(("behind", wrong) for wrong in (forgets_its_count, *SWAPS)),
    *(("rms behind", wrong) for wrong in (forgets_eps, *SWAPS)),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_wrong_cuts_are_refused(name, wrong):
    model, x = made(name)
    (group,) = streams(model, x)
    mask = cut([group])
    small = sentei.shrink(model, mask, x)
    wrong(small)
    with pytest.raises(sentei.CertificateError):
        sentei.certify(masked_by(model, mask), small, x, mask=mask)


class Inside(nn.Module):
    """A block that calls the norm in its own forward, with its width as a constant."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(4, D), nn.Linear(D, 3), nn.Parameter(torch.ones(D))

    def forward(self, x):
        return self.b(F.layer_norm(self.a(x), (D,), self.scale))


class Exposed(nn.Module):
    """Returns its hidden states beside what counts."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, D), nn.LayerNorm(D), nn.Linear(D, 3)

    def forward(self, x):
        h = self.a(x)
        return self.b(self.norm(h)), h


def test_what_cannot_be_counted_or_reaches_an_output_is_listed_with_the_reason():
    x = torch.randn(3, 4)
    assert sentei.find_units(Inside(), x) == []
    reasons = {each.parameter: each.reason for each in sentei.not_offered(Inside(), x)}
    assert "a module with a scale of its own" in reasons["a.weight"]
    assert sentei.find_units(Exposed(), x) == []
    reasons = {each.parameter: each.reason for each in sentei.not_offered(Exposed(), x)}
    assert "pass forward= with what does" in reasons["a.weight"]
    assert "forward=" not in reasons["b.weight"]
    (group,) = sentei.find_units(Exposed(), x, forward=lambda model, x: model(x)[0])
    assert (group.kind, group.size) == ("stream", D)


def test_inputs_of_a_norm_are_not_offered():
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3))
    assert sentei.find_units(model, torch.randn(2, 4), inputs=True) == []


def test_a_mean_over_steps_or_pixels_is_no_norm():
    class Squeeze(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            h = self.a(x)
            return self.c(h * self.b(h.mean(1, keepdim=True)).sigmoid())

    (group,) = sentei.find_units(Squeeze(), torch.randn(2, 5, 4))
    assert (group.kind, group.size) == ("neuron", 6)
    assert ("b.weight", 1) in {(part.parameter, part.dim) for part in group.listeners}


# Networks of transformers.

SMALL = {"vocab_size": 20, "hidden_size": 24, "intermediate_size": 30, "num_hidden_layers": 2}
MORE = {**SMALL, "num_attention_heads": 4, "max_position_embeddings": 32}
GROUPED = {**MORE, "num_key_value_heads": 2, "head_dim": 6}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}
T5 = {"d_model": 24, "d_kv": 6, "d_ff": 32, "num_layers": 2, "num_heads": 4}
AUDIO = {
    "d_model": 24,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_mel_bins": 8,
    "max_source_positions": 16,
    "max_target_positions": 32,
}
# By model: the configuration, and the largest difference; most of these norms compute in float32.
THEIRS = {
    "LlamaForCausalLM": (GROUPED, 1e-6),
    "Qwen2ForCausalLM": (GROUPED, 1e-6),
    "Qwen3ForCausalLM": (GROUPED, 1e-6),
    "MistralForCausalLM": (GROUPED, 1e-6),
    "GemmaForCausalLM": (GROUPED, 1e-6),
    "T5ForConditionalGeneration": ({"vocab_size": 20, "decoder_start_token_id": 0, **T5}, 1e-6),
    "GPT2LMHeadModel": (
        {"vocab_size": 20, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 32, **ENDS},
        1e-10,
    ),
    "OPTForCausalLM": ({**MORE, "ffn_dim": 32, "word_embed_proj_dim": 24}, 1e-10),
    "GPTNeoXForCausalLM": (MORE, 1e-10),
    "BertForMaskedLM": (MORE, 1e-10),
    "ViTForImageClassification": (
        {**SMALL, "num_attention_heads": 4, "image_size": 16, "patch_size": 4},
        1e-10,
    ),
    "WhisperForConditionalGeneration": (
        {"vocab_size": 20, "pad_token_id": 0, "decoder_start_token_id": 1, **AUDIO, **ENDS},
        1e-10,
    ),
}


def logits(model, example):
    return model(**example).logits


def theirs(name):
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    model = shaken(kind(kind.config_class(**THEIRS[name][0])))
    tokens = {"input_ids": torch.randint(0, 20, (2, 7))}
    if "T5" in name:
        return model, {**tokens, "decoder_input_ids": tokens["input_ids"]}
    if "ViT" in name:
        return model, {"pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64)}
    if "Whisper" in name:
        sound = torch.randn(2, 8, 32, dtype=torch.float64)
        return model, {"input_features": sound, "decoder_input_ids": tokens["input_ids"]}
    return model, tokens


@pytest.mark.parametrize("name", THEIRS)
def test_the_width_of_transformers_is_cut(name, tmp_path):
    model, example = theirs(name)
    found = streams(model, example, logits)
    mask = cut(found)
    masked = masked_by(model, mask)
    small = sentei.shrink(model, mask, example, forward=logits)
    with torch.no_grad():
        assert apart(logits(masked, example), logits(small, example)) < THEIRS[name][1]
        assert apart(logits(model, example), logits(masked, example)) > 1e-3
    certificate = sentei.certify(masked, small, example, mask=mask, forward=logits)
    assert certificate.uncompared == ()
    sentei.save(small, tmp_path / "small.safetensors")
    again = sentei.load(tmp_path / "small.safetensors", into=theirs(name)[0])
    with torch.no_grad():
        assert torch.equal(logits(again.eval(), example), logits(small, example))
