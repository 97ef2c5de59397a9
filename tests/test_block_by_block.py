"""`each_block`: the blocks of a network one after the other, in memory or from files."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import sentei
from sentei import criteria, each_block
from sentei.errors import DataError, FileError, StructureError


class Block(nn.Module):
    """A residual block that reads a mask of each sample and a table, and returns a tuple."""

    def __init__(self, width, inner):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x, mask, table):
        inner = F.gelu(self.into(self.norm(x + table)))
        return x + self.out(inner) * mask[:, :, None], inner


class Stack(nn.Module):
    """Words, three blocks, and a head whose weight is that of the words."""

    def __init__(self, count=3, width=8, inner=12):
        super().__init__()
        self.words = nn.Embedding(20, width)
        self.register_buffer("table", torch.randn(5, width))
        self.blocks = nn.ModuleList(Block(width, inner) for _ in range(count))
        self.head = nn.Linear(width, 20, bias=False)
        self.head.weight = self.words.weight

    def forward(self, words):
        mask = (words != 0).to(self.table)
        x = self.words(words)
        for block in self.blocks:
            x, _ = block(x, mask, table=self.table)
        return self.head(x)


def stack(seed=0):
    torch.manual_seed(seed)
    return Stack().double().eval(), torch.randint(
        0, 20, (10, 5)
    )  # as many as positions in a batch of 5


def llama(layers=2):
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "use_cache": False}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": layers}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads)).double().eval()
    return model, {"input_ids": torch.randint(0, 30, (7, 5))}


NETWORKS = {"stack": (stack, "blocks.*"), "llama": (llama, "model.layers.*")}


@torch.no_grad()
def streams(model, inputs, names):
    """Return what each block reads and returns, seen by hooks, and the network's own outputs."""
    seen = {}

    def note(module, args, kwargs, output):
        read = args[0] if args else kwargs["hidden_states"]
        behind = output[0] if isinstance(output, tuple) else output
        seen[module] = read.clone(), behind.clone()

    hooks = [
        model.get_submodule(name).register_forward_hook(note, with_kwargs=True) for name in names
    ]
    out = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    for hook in hooks:
        hook.remove()
    return [seen[model.get_submodule(name)] for name in names], getattr(out, "logits", out)


def read_by(block):
    return block.inputs["stream"] if isinstance(block.inputs, dict) else block.inputs


def cut(block):
    """Remove a quarter of each group by exact ablation of the block's own output."""
    probe = block.probe()
    groups = block.units()
    assert groups
    dead = {g: criteria.ablation(probe, g).argsort()[: max(1, g.size // 4)] for g in groups}
    block.shrink(sentei.Mask.full(groups).without(dead))


@pytest.mark.parametrize("batch", [2, 5, 50])
@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_read_and_return_what_they_do_in_the_network(name, batch):
    make, blocks = NETWORKS[name]
    model, inputs = make()
    found = [*each_block(model, inputs, blocks, batch=batch)]
    expected, whole = streams(model, inputs, [block.name for block in found])
    assert len(found) == len(expected) > 1
    for block, (reads, returns) in zip(found, expected, strict=True):
        torch.testing.assert_close(read_by(block), reads, rtol=0, atol=1e-12)
        torch.testing.assert_close(block.outputs, returns, rtol=0, atol=1e-12)
    assert torch.equal(streams(make()[0], inputs, [])[1], whole)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_block_reads_what_smaller_ones_before_it_return(name):
    make, blocks = NETWORKS[name]
    model, inputs = make()
    names, reads = [], []
    for block in each_block(model, inputs, blocks, batch=4):
        names.append(block.name)
        reads.append(read_by(block))
        cut(block)
    expected, _ = streams(model, inputs, names)
    for own, (other, _) in zip(reads, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)
    smaller = sum(p.numel() for p in model.parameters())
    assert smaller < sum(p.numel() for p in make()[0].parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_files_give_the_same_network_with_one_block_in_memory(name, tmp_path):
    make, blocks = NETWORKS[name]
    model, inputs = make()
    named = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        named.setdefault(id(tensor), (key, tensor.detach().contiguous()))
    save_file(dict(named.values()), tmp_path / "all.safetensors")
    for block in each_block(model, inputs, blocks, batch=4):
        cut(block)
    bare, _ = make()
    for part in [*bare.get_submodule(blocks[:-2])]:
        part.to("meta")
    held = []
    weights, out = tmp_path / "all.safetensors", tmp_path / "out"
    for block in each_block(bare, inputs, blocks, weights=weights, out=out, batch=4):
        parts = bare.get_submodule(blocks[:-2])
        held.append([not any(p.is_meta for p in part.parameters()) for part in parts])
        cut(block)
    assert all(sum(each) == 1 for each in held)
    assert all(p.is_meta for p in bare.get_submodule(blocks[:-2]).parameters())
    loaded = sentei.load(out, into=make()[0])
    expected = streams(model, inputs, [])[1]
    assert torch.equal(streams(loaded, inputs, [])[1], expected)
    assert {k: v.shape for k, v in loaded.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


def test_a_block_that_is_changed_in_place_is_run_again():
    model, inputs = stack()
    before = []
    for block in each_block(model, inputs, "blocks.*"):
        before.append(read_by(block))
        with torch.no_grad():
            block.module.out.weight.zero_()
            block.module.out.bias.zero_()
    assert torch.equal(before[0], before[1])
    assert torch.equal(before[1], before[2])


def test_a_block_is_shown_without_its_numbers():
    model, inputs = stack()
    assert "tensor(" not in repr(next(each_block(model, inputs, "blocks.*")))


def test_the_loss_of_a_block_is_how_far_it_is_from_what_it_returned():
    model, inputs = stack()
    block = next(each_block(model, inputs, "blocks.*"))
    (group,) = block.units()
    scores = criteria.ablation(block.probe(), group)
    naive = []
    for unit in range(group.size):
        other = copy.deepcopy(block.module)
        with torch.no_grad():
            other.out.weight[:, unit] = 0
            apart = block.forward(other, block.inputs) - block.outputs
        naive.append(apart.square().flatten(1).sum(1).mean() / 2)
    torch.testing.assert_close(scores.double(), torch.stack(naive), rtol=1e-5, atol=1e-12)


class Backwards(Stack):
    """Calls its blocks in the opposite order."""

    def forward(self, words):
        x = self.words(words)
        mask = (words != 0).to(self.table)
        for block in reversed(self.blocks):
            x, _ = block(x, mask, table=self.table)
        return self.head(x)


def test_bad_input_is_refused_before_any_work(tmp_path):
    model, inputs = stack()
    with pytest.raises(StructureError, match=r"none has a name like 'layers\.\*'"):
        each_block(model, inputs, "layers.*")
    with pytest.raises(DataError, match="batch="):
        each_block(model, inputs, "blocks.*", batch=0)
    with pytest.raises(DataError, match="calibration samples"):
        each_block(model, inputs[:0], "blocks.*")
    with pytest.raises(FileError, match="there is none in this folder"):
        each_block(model, inputs, "blocks.*", weights=tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"no header")
    with pytest.raises(FileError, match="cannot be read as safetensors"):
        each_block(model, inputs, "blocks.*", weights=tmp_path / "bad.safetensors")
    with pytest.raises(FileError, match="a new or an empty folder"):
        each_block(model, inputs, "blocks.*", out=tmp_path)


def test_networks_that_are_no_stack_of_blocks_are_refused():
    model, inputs = stack()
    torch.manual_seed(0)
    with pytest.raises(StructureError, match="one after the other"):
        list(each_block(Backwards().double(), inputs, "blocks.*"))
    with pytest.raises(StructureError, match="is given none"):
        next(each_block(model, inputs, "words"))
    cached, words = llama()
    cached.config.use_cache = True
    with pytest.raises(StructureError, match="use_cache = False"):
        next(each_block(cached, words, "model.layers.*"))


class Shifted(Stack):
    """Its blocks read a table that depends on the samples, and does not belong to them."""

    def forward(self, words):
        x = self.words(words)
        mask = (words != 0).to(self.table)
        for block in self.blocks:
            x, _ = block(x, mask, table=self.table + words.sum())
        return self.head(x)


def test_what_differs_between_batches_is_refused():
    inputs = stack()[1]
    with pytest.raises(DataError, match="differs between two batches"):
        next(each_block(Shifted().double(), inputs, "blocks.*", batch=4))


def test_weights_that_do_not_fit_are_refused(tmp_path):
    model, inputs = stack()
    tensors = {k: v.contiguous() for k, v in model.state_dict().items() if k != "head.weight"}
    lacking = {k: v for k, v in tensors.items() if k != "blocks.1.out.bias"}
    save_file(lacking, tmp_path / "lacking.safetensors")
    walk = each_block(model, inputs, "blocks.*", weights=tmp_path / "lacking.safetensors")
    assert next(walk).name == "blocks.0"
    with pytest.raises(FileError, match=r"'out\.bias' of blocks\.1 is missing"):
        next(walk)
    tensors["blocks.0.into.weight"] = torch.zeros(3, 8, dtype=torch.float64)
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(FileError, match=r"'into\.weight' has \(3, 8\)"):
        next(each_block(stack()[0], inputs, "blocks.*", weights=tmp_path / "other.safetensors"))


def test_a_folder_is_complete_when_its_index_is_there(tmp_path):
    model, inputs = stack()
    walk = each_block(model, inputs, "blocks.*", out=tmp_path / "out")
    next(walk)
    next(walk)
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["model-00001.safetensors"]
    with pytest.raises(FileError, match="cannot be read"):
        sentei.load(tmp_path / "out", into=stack()[0])
    assert len(list(walk)) == 1
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(model.state_dict()) - {"head.weight"}
    loaded = sentei.load(tmp_path / "out", into=stack(seed=1)[0])
    assert loaded.head.weight is loaded.words.weight
    assert torch.equal(loaded(inputs), model(inputs))
