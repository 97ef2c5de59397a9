"""Shrunk networks of transformers, saved for transformers itself or by sentei's description."""

import copy
import dataclasses
import importlib
import json
import logging
import os
import sys

import pytest
import torch
from torch import nn

import sentei
from sentei import distributed

os.environ["HF_HUB_OFFLINE"] = "1"

from hugging_face import (
    NETWORKS,
    WORDS,
    auto,
    build,
    inner_units,
    logits,
    transformers,
)
from sentei.errors import CertificateError, DataError, FileError
from sentei.integrations import transformers as for_transformers
from sentei.integrations.fitting_config import fits, why_not
from sentei.integrations.outlines import outline
from sentei.integrations.transformers import from_pretrained, save_pretrained

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def shrunk(model, example, kind=None, uneven=False):
    """Remove a third of each group of a kind; of later layers one more where they are uneven."""
    groups = [g for g in inner_units(model, example) if kind in (None, g.kind)]
    groups = [g for g in groups if "pooler" not in g.name]
    doomed = {g: range(g.size // 3 + uneven * i) for i, g in enumerate(groups)}
    return sentei.shrink(model, sentei.Mask.full(groups).without(doomed), example)


def files(folder):
    return {path.name for path in folder.iterdir()}


# By transformers itself.

FEED_FORWARD = {
    **{name: {"intermediate_size": 20} for name in NETWORKS},
    "gpt2": {"n_inner": 64},
    "t5": {"d_ff": 20},
}
HEADS = {
    "llama": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "qwen3": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "gemma": {"num_attention_heads": 4, "num_key_value_heads": 2},
    # The size of a head is not in these configurations; it is stated before heads go.
    "qwen2": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4},
    "vit": {"num_attention_heads": 4, "head_dim": 4},
    "phi3": {"num_key_value_heads": 2, "head_dim": 4},  # shrink itself changed the other
    "t5": {"num_heads": 4},
}
CUTS = [("neuron", name, numbers) for name, numbers in FEED_FORWARD.items()]
CUTS += [("head", name, numbers) for name, numbers in HEADS.items()]
QUICK = {("neuron", name) for name in ("bert", "gpt2", "llama", "vit")}
QUICK |= {("head", name) for name in ("llama", "qwen2", "vit")}


@pytest.mark.parametrize(
    ("kind", "name", "numbers"),
    [case if case[:2] in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CUTS],
)
def test_transformers_itself_loads_what_its_configuration_can_say(kind, name, numbers, tmp_path):
    model, x = build(name)
    small = shrunk(model, x, kind)
    saved = save_pretrained(small, tmp_path / "small", x)
    assert (saved.plain, dict(saved.changed), saved.why) == (True, numbers, "")
    assert files(tmp_path / "small") - {"generation_config.json"} == {
        "config.json",
        "model.safetensors",
    }
    for again in (
        auto(name).from_pretrained(tmp_path / "small"),
        from_pretrained(tmp_path / "small"),
    ):
        assert type(again) is type(model)
        assert not again.training
        assert {k: getattr(again.config, k) for k in numbers} == numbers
        assert torch.equal(logits(again, x), logits(small, x))
        shapes = {n: p.shape for n, p in small.named_parameters()}
        assert {n: p.shape for n, p in again.named_parameters()} == shapes
    assert files(tmp_path) == {"small"}


def test_saving_changes_nothing_in_the_network(tmp_path):
    model, x = build("qwen2")
    small = shrunk(model, x).train()
    before, config = copy.deepcopy(small.state_dict()), small.config.to_dict()
    random = torch.random.get_rng_state()
    save_pretrained(small, tmp_path / "small", x)
    assert small.config.to_dict() == config
    assert small.training
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


def test_an_uncut_network_in_its_own_dtype_is_saved_as_it_is(tmp_path):
    for dtype in (torch.float64, torch.bfloat16):
        model, x = build("llama")
        model.to(dtype)
        saved = save_pretrained(model, tmp_path / f"{dtype}", x)
        assert (saved.plain, dict(saved.changed)) == (True, {})
        again = auto("llama").from_pretrained(tmp_path / f"{dtype}")
        assert again.dtype == dtype
        assert torch.equal(logits(again, x), logits(model, x))


class Passing(nn.Module):
    """A block whose attention and feed-forward part are gone, as sentei leaves it."""

    __module__ = "sentei.network"

    def __init__(self):
        super().__init__()
        self.register_buffer("zeros", torch.zeros(1, 24))

    def forward(self, hidden_states, *_, **__):
        return hidden_states


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_blocks_without_tensors_are_left_out_and_counted(name, tmp_path):
    kinds = {}
    if name == "qwen2":  # has one entry for each layer
        kinds = {"layer_types": ["full_attention", "sliding_attention"] * 2}
        kinds |= {"use_sliding_window": True, "sliding_window": 3}
    model, x = build(name, num_hidden_layers=4, **kinds)
    small = shrunk(model, x)
    small.model.layers[1] = Passing()
    assert not torch.equal(logits(small, x), logits(model, x))
    saved = save_pretrained(small, tmp_path / "small", x)
    assert saved.plain, saved.why
    again = auto(name).from_pretrained(tmp_path / "small")
    assert again.config.num_hidden_layers == len(again.model.layers) == 3
    assert torch.equal(logits(again, x), logits(small, x))
    if kinds:
        assert again.config.layer_types == ["full_attention"] * 2 + ["sliding_attention"]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("llama", {"num_attention_heads": 2, "num_key_value_heads": 1}),
        ("qwen2", {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6}),
        ("t5", {"num_heads": 2}),
    ],
)
def test_fewer_heads_are_not_taken_for_smaller_ones(name, numbers, tmp_path):
    """Half as many heads of 6, and as many of 3, have the same tensors."""
    four = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model, x = build(name, **({"num_heads": 4, "d_kv": 6} if name == "t5" else four))
    groups = [g for g in sentei.find_units(model, x) if g.kind == "head"]
    mask = sentei.Mask.full(groups).without({g: range(g.size // 2) for g in groups})
    small = sentei.shrink(model, mask, x)
    saved = save_pretrained(small, tmp_path / "small", x)
    assert (saved.plain, dict(saved.changed)) == (True, numbers), saved.why
    again = auto(name).from_pretrained(tmp_path / "small")
    assert torch.equal(logits(again, x), logits(small, x))


def test_groups_that_are_kept_alike_are_described_by_the_configuration(tmp_path):
    model, x = build("llama", num_hidden_layers=3)
    with torch.no_grad():  # without `alike`, the second layer would lose most
        for parameter in model.model.layers[1].parameters():
            parameter.mul_(0.5)
    groups = inner_units(model, x)
    last_word = {"forward": lambda m, words: m(words).logits[:, -1]}
    probe = sentei.Probe(model, (x["input_ids"], torch.tensor([3, 5])), **last_word)
    plain = []
    for alike in ((), ("*.self_attn.*", "*.mlp.*")):
        propose = sentei.ranked("magnitude", sentei.one_shot("60 %"), alike=alike)
        mask, starts = sentei.Mask.full(groups), {g: g.size for g in groups}
        size = sum(starts.values())
        cut = propose(probe, groups, mask, sentei.Progress(1, 1, size, size, starts=starts))
        small = sentei.shrink(model, mask.without(cut.doomed), x)
        plain.append(save_pretrained(small, tmp_path / f"{len(alike)}", x).plain)
    assert plain == [False, True]


def narrower(model, kept):
    """Return a network without some entries of its stream, as norms without a mean allow it.

    The statistics of a root mean square of fewer entries are larger by the same factor in all.
    """
    more = 24 / len(kept)
    numbers = {"hidden_size": len(kept), "rms_norm_eps": model.config.rms_norm_eps * more}
    config = type(model.config).from_dict({**model.config.to_dict(), **numbers})
    small = type(model)(config).eval()
    with torch.no_grad():
        for (name, value), whole in zip(small.named_parameters(), model.parameters()):
            dims = [dim for dim in range(value.ndim) if value.shape[dim] != whole.shape[dim]]
            for dim in dims:
                whole = whole.index_select(dim, kept)  # noqa: PLW2901
            value.copy_(whole * (more**0.5 if "norm" in name else 1))
    small.config = model.config  # as `shrink` leaves it
    return small


def test_the_width_of_a_stream_and_its_eps_follow(tmp_path):
    model, x = build("llama")
    small = narrower(model, torch.arange(18))  # a multiple of the heads
    saved = save_pretrained(small, tmp_path / "small", x)
    assert saved.plain, saved.why
    assert saved.changed["hidden_size"] == 18
    assert saved.changed["rms_norm_eps"] == pytest.approx(4e-6 / 3, rel=1e-12)
    again = auto("llama").from_pretrained(tmp_path / "small")
    assert torch.equal(logits(again, x), logits(small, x))


@pytest.mark.parametrize("name", ["gpt2", "gemma", "t5"])
@pytest.mark.parametrize("uneven", [False, True])
def test_tied_weights_stay_tied(name, uneven, tmp_path):
    model, x = build(name)
    small = shrunk(model, x, "neuron", uneven)
    assert save_pretrained(small, tmp_path / "small", x).plain is not uneven
    again = from_pretrained(tmp_path / "small")
    assert again.lm_head.weight is again.get_input_embeddings().weight
    assert torch.equal(logits(again, x), logits(small, x))


# By sentei's description.


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "qwen3", "vit"])
def test_uneven_layers_are_described_by_sentei_and_named(name, tmp_path, caplog):
    model, x = build(name)
    small = shrunk(model, x, "neuron", uneven=True)
    with caplog.at_level(logging.WARNING, logger="sentei"):
        saved = save_pretrained(small, tmp_path / "small", x)
    assert not saved.plain
    assert dict(saved.changed) == {}
    assert saved.why.startswith("layers differ: ")
    a, b = (64, 63) if name == "gpt2" else (20, 19)
    assert f"{a}" in saved.why.split("in 0")[0]
    assert f"{b}" in saved.why.split("in 0")[1].split("in 1")[0]
    assert saved.why in caplog.text
    assert files(tmp_path / "small") - {"generation_config.json"} == {
        "config.json",
        "sentei.safetensors",
    }
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        auto(name).from_pretrained(tmp_path / "small")
    again = from_pretrained(tmp_path / "small")
    assert type(again) is type(model)
    assert not again.training
    assert torch.equal(logits(again, x), logits(small, x))


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_heads_that_no_number_can_say_are_described_by_sentei(name, tmp_path):
    model, x = build(name)
    small = shrunk(model, x, "head")
    saved = save_pretrained(small, tmp_path / "small", x)
    assert saved.why.startswith("no number of the configuration gives these sizes: ")
    assert "(16, 24) and (24, 24)" in saved.why
    again = from_pretrained(tmp_path / "small")
    assert torch.equal(logits(again, x), logits(small, x))


def test_a_number_that_the_architecture_forbids_is_left_to_sentei(tmp_path):
    """Five heads of 4 in a width of 24: the sizes can be built, and transformers refuses them."""
    model, x = build("llama", num_key_value_heads=6)
    groups = [g for g in sentei.find_units(model, x) if g.kind == "head"]
    mask = sentei.Mask.full(groups).without({g: [2] for g in groups})
    small = sentei.shrink(model, mask, x)
    saved = save_pretrained(small, tmp_path / "small", x)
    assert "is refused" in saved.why
    assert "not a multiple" in saved.why
    assert "\n" not in saved.why
    assert files(tmp_path / "small") == {
        "config.json",
        "generation_config.json",
        "sentei.safetensors",
    }
    assert torch.equal(logits(from_pretrained(tmp_path / "small"), x), logits(small, x))


def test_what_was_loaded_generates_the_same_words(tmp_path):
    model, _ = build("llama", use_cache=True)
    model.generation_config.max_new_tokens = 5
    groups = inner_units(model, WORDS, forward=lambda m, x: m(**x, use_cache=False).logits)
    mask = sentei.Mask.full(groups).without({g: range(1 + i) for i, g in enumerate(groups[:2])})
    call = {"forward": lambda m, x: m(**x, use_cache=False).logits}
    small = sentei.shrink(model, mask, WORDS, **call)
    assert not save_pretrained(small, tmp_path / "small", WORDS, **call).plain
    again = from_pretrained(tmp_path / "small")
    words = [net.generate(**WORDS, do_sample=False, pad_token_id=0) for net in (small, again)]
    assert words[0].shape[1] > WORDS["input_ids"].shape[1]
    assert torch.equal(*words)


# Refusals: nothing is left behind.


class Halved(nn.LayerNorm):
    """Has the tensors of its parent class, and computes something else."""

    def forward(self, input):
        return super().forward(input) / 2


def test_equal_sizes_are_not_enough(tmp_path):
    model, x = build("vit")
    model.vit.layernorm = Halved(24)
    with pytest.raises(CertificateError, match="again has outputs that differ by 1 of the largest"):
        save_pretrained(model, tmp_path / "small", x)
    assert not files(tmp_path)


class Slightly(nn.LayerNorm):
    def forward(self, input):
        return super().forward(input) * 1.02


def test_half_precision_hides_no_difference(tmp_path):
    model, x = build("vit")
    model.vit.layernorm = Slightly(24)
    model.bfloat16()
    with pytest.raises(CertificateError, match=r"differ by 0\.0"):
        save_pretrained(model, tmp_path / "small", {"pixel_values": x["pixel_values"].bfloat16()})
    assert not files(tmp_path)


@pytest.mark.parametrize("moment", ["save", "from_pretrained"])
def test_a_folder_is_complete_or_not_there(moment, tmp_path, monkeypatch):
    model, x = build("llama")
    small = shrunk(model, x, "neuron", uneven=True)

    def fails(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(for_transformers, moment, fails)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(small, tmp_path / "small", x)
    assert not files(tmp_path)


def test_a_folder_with_something_in_it_is_refused_before_any_work(tmp_path, monkeypatch):
    model, x = build("llama")
    monkeypatch.setattr(for_transformers, "fits", pytest.fail)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name, words in [("file", "is a file"), ("full", "not empty"), ("link", "is a file or a l")]:
        with pytest.raises(FileError, match=words):
            save_pretrained(model, tmp_path / name, x)
    with pytest.raises(DataError, match="must run through the model"):
        save_pretrained(model, tmp_path / "new", {"input_ids": torch.full((1, 4), 99)})
    with pytest.raises(TypeError, match=r"networks of transformers.*sentei\.save"):
        save_pretrained(nn.Linear(2, 2), tmp_path / "new", torch.rand(1, 2))
    model.lm_head.register_forward_hook(lambda *_: None)
    with pytest.raises(FileError, match="hook"):
        save_pretrained(model, tmp_path / "new", x)
    assert files(tmp_path) == {"file", "full", "link"}
    assert files(tmp_path / "full") == {"notes"}


def test_an_empty_folder_is_filled(tmp_path):
    model, x = build("bert")
    assert save_pretrained(model, tmp_path, x).plain
    assert files(tmp_path) == {"config.json", "model.safetensors"}


def test_what_cannot_be_loaded_is_refused(tmp_path):
    with pytest.raises(FileError, match="no configuration of transformers"):
        from_pretrained(tmp_path / "absent")
    model, x = build("llama")
    small = shrunk(model, x, "neuron", uneven=True)
    save_pretrained(small, tmp_path / "small", x)
    file = tmp_path / "small" / "config.json"
    config = json.loads(file.read_text())
    for name in ("AutoModel", "os", None, 3, "PreTrainedConfig"):
        file.write_text(json.dumps({**config, "architectures": [name]}))
        with pytest.raises(FileError, match="model_class="):
            from_pretrained(tmp_path / "small")
    again = from_pretrained(tmp_path / "small", transformers.LlamaForCausalLM)
    assert torch.equal(logits(again, x), logits(small, x))
    file.write_text(json.dumps({**config, "hidden_size": "wide"}))
    with pytest.raises(FileError, match="cannot be loaded as LlamaForCausalLM"):
        from_pretrained(tmp_path / "small")
    file.write_text(json.dumps(config))
    weights = tmp_path / "small" / "sentei.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(FileError, match="truncated"):
        from_pretrained(tmp_path / "small")


def test_without_transformers_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "sentei.integrations.transformers")
    with pytest.raises(ImportError, match=r"pip install 'sentei\[transformers\]'"):
        importlib.import_module("sentei.integrations.transformers")


# The search by itself, on networks that no library has.


@dataclasses.dataclass
class Numbers:
    width: int = 12
    heads: int = 4
    blocks: int = 3
    inner: int = 12  # equals the width, and may change by itself
    extra: int = 12  # is read nowhere
    eps: float = 1e-5
    sizes: tuple = (6, 10)


class Strict(nn.Module):
    """Refuses a width that is no multiple of its heads; its heads have the same size."""

    def __init__(self, config):
        super().__init__()
        if config.width % config.heads:
            raise ValueError("no multiple")
        each = config.width // config.heads
        self.qkv = nn.Linear(config.width, 3 * config.heads * each, bias=False)
        self.norm = nn.LayerNorm(config.width, eps=config.eps)
        self.blocks = nn.ModuleList(
            nn.Linear(config.width, config.inner) for _ in range(config.blocks)
        )
        self.stages = nn.Sequential(*(nn.Linear(2, size) for size in config.sizes))


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ({}, {}),
        ({"inner": 5}, {"inner": 5}),
        ({"blocks": 2}, {"blocks": 2}),
        ({"eps": 2e-5, "inner": 5}, {"eps": 2e-5, "inner": 5}),
        ({"sizes": (6, 4)}, {"sizes.1": 4}),
        ({"width": 9, "heads": 3}, {"width": 9, "heads": 3}),  # only together
        ({"width": 8, "inner": 7, "blocks": 1, "sizes": (1, 10)}, None),
    ],
)
def test_numbers_are_found_by_trying(numbers, found):
    config, wanted = Numbers(), dataclasses.replace(Numbers(), **numbers)
    fit = next(fits(config, lambda c: outline(Strict(c)), outline(Strict(wanted))))
    assert config == Numbers()
    assert why_not(fit) is None
    assert outline(Strict(fit.config)) == outline(Strict(wanted))
    assert found is None or dict(fit.changed) == found
    assert fit.config.extra == 12


def test_what_no_numbers_give_is_said():
    def cut(*sizes):
        net = Strict(Numbers())
        net.blocks = nn.ModuleList(nn.Linear(12, size) for size in sizes)
        return next(fits(Numbers(), lambda c: outline(Strict(c)), outline(net)))

    assert why_not(cut(12, 12, 12)) is None
    assert why_not(cut(7, 7)) is None
    assert why_not(cut(7, 7, 8)) == (
        "layers differ: 'blocks.*.weight' is (7, 12) in 0 and 1, (8, 12) in 2"
    )
    net = Strict(Numbers())
    net.qkv = nn.Linear(12, 9, bias=False)
    (fit,) = fits(Numbers(), lambda c: outline(Strict(c)), outline(net))
    assert why_not(fit) == (
        "no number of the configuration gives these sizes: 'qkv.weight' is (9, 12) and (36, 12) by "
        "the nearest configuration"
    )


def test_only_rank_0_writes_a_folder(tmp_path, monkeypatch):
    model, example = build("llama")
    monkeypatch.setattr(distributed, "_rank", lambda: 1)
    monkeypatch.setattr(distributed, "world", lambda: 2)
    with pytest.raises(FileError, match="rank 0 of 2"):
        save_pretrained(model, tmp_path / "small", example)
    assert not list(tmp_path.iterdir())
