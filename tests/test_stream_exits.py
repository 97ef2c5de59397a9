"""A network of less width leaves by every exit: ONNX, files of transformers, training."""

from __future__ import annotations

import copy
import io
import os

import pytest
import torch
from torch import nn

import sentei
from hugging_face import auto, build, logits
from sentei.integrations.transformers import from_pretrained, save_pretrained
from sentei.network.counted_norm import CountedLayerNorm
from stream_networks import HAND, cut, made, masked_by, streams

os.environ["HF_HUB_OFFLINE"] = "1"
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
RMS = ("rms", "rms behind")  # torch's older exporter has no RMS norm, cut or not


def narrow(name):
    """Return a masked network, the one without a third of its width, and inputs, in float32."""
    model, x = made(name)
    mask = cut(streams(model, x))
    masked, small = masked_by(model, mask).float(), sentei.shrink(model, mask, x).float()
    return masked, small, x.float() if x.is_floating_point() else x


def answered(data, x):
    """Return what onnxruntime computes."""
    session = onnxruntime.InferenceSession(data)
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


WRITTEN = ("behind", "root less one", "pictures", "torch before")  # one of each kind of norm


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in WRITTEN else pytest.mark.slow) for name in HAND],
)
def test_onnxruntime_computes_the_masked_network(name, tmp_path):
    masked, small, x = narrow(name)
    sentei.export(small, tmp_path / "small.onnx", x)
    with torch.no_grad():
        want = masked(x)
    assert torch.allclose(answered(tmp_path / "small.onnx", x), want, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", [name for name in HAND if name not in RMS])
def test_torch_exports_it_too(name):
    masked, small, x = narrow(name)
    written = io.BytesIO()
    torch.onnx.export(small, (x,), written, dynamo=False)
    with torch.no_grad():
        want = masked(x)
    assert torch.allclose(answered(written.getvalue(), x), want, atol=1e-5)


NETWORKS = {"llama": True, "gpt2": False, "bert": False, "vit": False, "qwen3": False, "t5": False}
QUICK = ("llama", "gpt2", "bert", "vit")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]
)
def test_the_width_goes_through_the_files_of_transformers(name, tmp_path):
    model, x = build(name)
    found = [g for g in sentei.find_units(model, x, forward=logits) if g.kind == "stream"]
    assert [g.size for g in found] == [24]
    mask = sentei.Mask.full(found).without({found[0]: range(6)})
    small = sentei.shrink(model, mask, x, forward=logits)
    saved = save_pretrained(small, tmp_path / "small", x)
    assert saved.plain is NETWORKS[name], saved.why
    if saved.plain:
        assert saved.changed["hidden_size"] == 18
        again = auto(name).from_pretrained(tmp_path / "small")
    else:
        again = from_pretrained(tmp_path / "small")
    assert torch.equal(logits(again, x), logits(small, x))
    assert torch.allclose(logits(small, x), logits(masked_by(model, mask), x), atol=1e-5)


def test_the_width_goes_while_training(tmp_path):
    model, x = made("before")
    model, y = model.float(), torch.arange(len(x)) % 4
    before = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    (group,) = streams(model, x)
    pruner = sentei.PruneWhileTraining(
        model,
        [group],
        sentei.ranked("magnitude", sentei.linear(8, 2)),
        every=2,
        total=6,
        delete=True,
        example=x,
    )
    pruner.attach(optimizer)
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    norms = [m for m in model.modules() if isinstance(m, CountedLayerNorm)]
    assert {(norm.width, norm.count) for norm in norms} == {(8, 12)}
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in before.parameters())
