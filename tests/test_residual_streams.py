"""Residual streams: the width that norms read is one group, and cuts of it are exact."""

import copy
import os

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sentei
from sentei import Mask
from sentei.network.counted_norm import CountedLayerNorm

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing is loaded from a hub
from stream_networks import HAND, D, apart, cut, made, masked_by, shaken, streams


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
    with pytest.raises(sentei.GroupError, match="takes the place"):
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
