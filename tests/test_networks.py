"""A tenth of the networks of `make networks`, in small form: what is offered is cut, exactly.

The others need packages that the pinned torch does not go with, or more time.
"""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing is loaded from a hub

import sentei
from networks_measure import cut, differences, masked
from networks_run import built, forward_of
from networks_zoo import zoo

ZOO = zoo()
SMALL = {
    *("mlp", "lenet", "pointnet", "dgcnn", "gat", "gin", "kan", "soft-moe", "spiking", "realnvp"),
    *("made", "dlrm", "nerf", "hypernetwork", "vae", "vq-vae", "highway", "tied-autoencoder"),
    *("srcnn", "rcan", "squeeze-excite-resnext", "lstm", "gru-packed", "convlstm"),
    *("tcn", "wavenet-packed", "wavenet", "selective-scan", "linear-attention"),
    "kan-radial",
}
LIBRARY = {"bert", "llama", "vit", "resnet", "convnext", "fnet", "opt"}
LONG = {
    *("gpt2", "phi3", "olmo2", "gpt-bigcode", "falcon", "mixtral", "mamba", "segformer", "t5"),
    *("bart", "whisper", "wav2vec2", "clip", "swin", "detr", "deberta", "qwen3", "gemma2"),
}
# Nothing can go alone: a spectral norm of each weight, a maximum over units.
TIED = ["plain/gan-discriminator-spectral-norm", "plain/maxout"]


def check(name: str) -> None:
    if name.startswith("transformers/"):
        pytest.importorskip("transformers", reason="pip install transformers")
    case = built(ZOO[name])
    way = forward_of(case)
    groups = sentei.find_units(case.model, case.example, **way)
    assert groups
    mask = cut(groups)
    small = sentei.shrink(case.model, mask, case.example, **way)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (case.model, small))
    assert after < before
    error, is_wrong = differences(masked(case.model, mask), small, case)
    assert not is_wrong, error


@pytest.mark.parametrize("name", sorted(SMALL))
def test_networks_by_hand(name):
    check(f"plain/{name}")


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_networks_of_a_library(name):
    check(f"transformers/{name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LONG))
def test_more_networks_of_a_library(name):
    check(f"transformers/{name}")


@pytest.mark.parametrize("name", TIED)
def test_where_nothing_can_go_everything_is_listed(name):
    case = built(ZOO[name])
    assert sentei.find_units(case.model, case.example) == []
    listed = {entry.parameter for entry in sentei.not_offered(case.model, case.example)}
    weights = {name for name, p in case.model.named_parameters() if p.ndim > 1}
    assert weights <= listed
