"""Files with random damage: each reader reads them or says in one sentence why not.

`make test-slow` tries thousands a reader, `make test` a hundred. The damage follows from a seed, so
a failure can be repeated.
"""

import copy
import gzip
import io
import json
import random
import resource
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save as packed
from torch import nn

from sentei.datasets import load as load_data
from sentei.errors import DataError, FileError
from sentei.formats import inspect, load, load_mask, save
from sentei.network.mask import Mask
from sentei.network.tracing.tracing import find_units
from sentei.network.units import find_synapses

SHORT, LONG = 100, 5000
NASTY = (
    *(b"\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80" + bytes(7), b"nan", b"-1", b"1e999", b'"'),
    *(b"\n", b"\r", b",", b";", b"(", b"{", b"\xef\xbb\xbf", b"\xc3", b"9" * 40, b"", b"\x1b[2J"),
)
ODD = (
    *(None, True, -1, 0, 1, 2, 3, 7, 2**31, 2**40, 2**63, 10**30, -(2**63), 0.5, float("nan")),
    *("", "0", "0.weight", "Linear", "same", "\x1b[2J", [], {}, [[]], [1, 2], [0, [1]], {"a": 1}),
    *([None] * 9, {"type": "same", "as": ""}, {"type": "Sequential", "children": []}),
)


def damaged(content, draw):
    """Change, insert, repeat or cut some bytes."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(content) + 1)
        end = min(len(content), at + draw.choice((0, 1, 1, 2, 8, 40)))
        content[at:end] = draw.choice(
            (
                draw.choice(NASTY),
                draw.randbytes(end - at),
                bytes(content[at:end]) * draw.choice((0, 2, 3)),
                bytes(b ^ 1 << draw.randrange(8) for b in content[at:end]),
            )
        )
        if draw.random() < 0.1:
            del content[draw.randrange(len(content) + 1) :]
    return bytes(content)


def replaced(tree, draw):
    """Replace, repeat or leave out one value somewhere in JSON data."""
    tree = copy.deepcopy(tree)
    parents = [(None, tree)]
    for _, value in parents:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        parents += [((value, key), item) for key, item in items if isinstance(item, (dict, list))]
    _, parent = draw.choice(parents)
    if not parent:
        return tree
    key = draw.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    if draw.random() < 0.2:
        del parent[key]
    elif draw.random() < 0.2:
        values = draw.choice([list(each.values()) or [0] for each in _dicts(tree)])
        parent[key] = copy.deepcopy(draw.choice(values))
    else:
        parent[key] = draw.choice(ODD)
    return tree


def _dicts(tree):
    found = [tree]
    for value in found:
        items = value.values() if isinstance(value, dict) else value
        found += [item for item in items if isinstance(item, (dict, list))]
    return [value for value in found if isinstance(value, dict)]


# A reader: a sound file, how it is damaged, and how it is read.


class Networks:
    """Files of networks: damage to bytes, and to the JSON of the card with sound tensors."""

    def __init__(self, folder):
        torch.manual_seed(0)
        self.x = torch.rand(4, 1, 6, 6)
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten()),
            nn.Linear(4, 2),
        )
        links, units = find_synapses(self.net), find_units(self.net, self.x)
        mask = Mask.full([*units, *links]).without({links[1]: [1, 5], units[0]: [1]})
        self.path = folder / "net.safetensors"
        save(self.net, self.path, mask)
        self.sound = self.path.read_bytes()
        head = json.loads(self.sound[8 : 8 + int.from_bytes(self.sound[:8], "little")])
        self.card = json.loads(head["__metadata__"]["sentei"])
        from safetensors.torch import load as unpacked

        self.tensors = unpacked(self.sound)

    def damage(self, draw):
        if draw.random() < 0.4:
            return damaged(self.sound, draw)
        card = self.card
        for _ in range(draw.randint(1, 3)):
            card = replaced(card, draw)
        tensors = dict(self.tensors)
        if draw.random() < 0.3:
            name = draw.choice(sorted(tensors))
            tensors[name] = draw.choice(
                (
                    torch.zeros(0),
                    torch.zeros(3, 3),
                    tensors[name].double(),
                    tensors[name].reshape(-1)[:1],
                )
            ).contiguous()
        return packed(tensors, {"sentei": json.dumps(card)})

    def read(self):
        """Read it in every way; what one refuses another may read."""
        reads = (
            lambda: load(self.path),
            lambda: load(self.path, into=copy.deepcopy(self.net)),
            lambda: load_mask(self.path),
            lambda: str(inspect(self.path)),
        )
        for read in reads:
            try:
                read()
            except FileError as error:
                if str(self.path) not in str(error):
                    raise


class Arrays:
    """Files of arrays: damage to the archive, and to the arrays in a sound archive."""

    def __init__(self, folder):
        self.path = folder / "own.npz"
        draw = np.random.default_rng(0)
        y = (np.arange(20) % 2).astype("<u2")
        self.members = {"inputs": draw.random((20, 3), np.float32), "targets": y}
        np.savez(self.path, **self.members)
        self.sound = self.path.read_bytes()

    def damage(self, draw):
        if draw.random() < 0.3:
            return damaged(self.sound, draw)
        archive, hit = io.BytesIO(), draw.choice(("inputs", "targets"))
        how = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with zipfile.ZipFile(archive, "w", how) as held:
            for name, values in self.members.items():
                member = io.BytesIO()
                np.save(member, values)
                content = member.getvalue()
                if name == hit:  # the header half of the time: most of the rest is numbers
                    edge = 128 if draw.random() < 0.5 else len(content)
                    content = damaged(content[:edge], draw) + content[edge:]
                held.writestr(f"{name}.npy", content)
        return archive.getvalue()

    def read(self):
        load_data(self.path)


class Tables:
    def __init__(self, folder):
        self.path = folder / "own.csv"
        rows = (f'{n},{n * n % 7},"a, {n % 3}",{"no" if n % 2 else "yes"}' for n in range(20))
        self.sound = "\r\n".join(['"first",second,third,y', *rows]).encode()
        self.path.write_bytes(self.sound)
        self.options = {"missing": "mean", "text": "one-hot"}

    def damage(self, draw):
        self.options = {
            "missing": draw.choice((None, "drop", "mean")),
            "text": draw.choice((None, "one-hot", "one-hot")),
            "regression": draw.random() < 0.2,
        }
        return damaged(self.sound, draw)

    def read(self):
        load_data(self.path, **self.options)


class Images:
    """Folders of IDX files, packed or not: damage inside and outside of the packing."""

    def __init__(self, folder):
        self.folder = folder / "images"
        self.folder.mkdir()
        values = (np.arange(24 * 6) % 256).astype(np.uint8)
        self.images = struct.pack(">BBBB3I", 0, 0, 8, 3, 24, 2, 3) + values.tobytes()
        self.labels = struct.pack(">BBBB1I", 0, 0, 8, 1, 24) + (values[:24] % 2).tobytes()
        for part in ("train", "t10k"):
            (self.folder / f"{part}-images-idx3-ubyte").write_bytes(self.images)
            (self.folder / f"{part}-labels-idx1-ubyte").write_bytes(self.labels)
        self.path, self.sound = self.folder / "train-images-idx3-ubyte", self.images

    def damage(self, draw):
        self.path.unlink()
        for name, content in (("images-idx3", self.images), ("labels-idx1", self.labels)):
            (self.folder / f"train-{name}-ubyte").write_bytes(content)
        name, content = draw.choice((("images-idx3", self.images), ("labels-idx1", self.labels)))
        self.path = self.folder / f"train-{name}-ubyte"
        edge = draw.choice((20, len(content)))
        inside = draw.random() < 0.7
        content = damaged(content[:edge], draw) + content[edge:] if inside else content
        if draw.random() < 0.5:
            self.path.unlink()
            self.path = self.path.with_suffix(".gz")
            content = gzip.compress(content, 1)
            content = content if inside else damaged(content, draw)
            self.path = self.folder / f"train-{name}-ubyte.gz"
        return content

    def read(self):
        load_data(self.folder)


READERS = {"networks": Networks, "arrays": Arrays, "tables": Tables, "images": Images}


def unclean(make, folder, count):
    """Damage a file `count` times; return what was raised that is no answer, by seed."""
    reader = make(folder)
    reader.read()
    found = {}
    for seed in range(count):
        content = reader.damage(random.Random(seed))
        reader.path.write_bytes(content)
        try:
            reader.read()
        except (DataError, FileError) as error:
            if str(folder) not in str(error):
                found[seed] = f"does not name the file: {error}"
        except Exception as error:
            found[seed] = f"{type(error).__name__}: {error}"
    return found


@pytest.mark.parametrize("reader", READERS)
def test_a_hundred_damaged_files(reader, tmp_path):
    assert unclean(READERS[reader], tmp_path, SHORT) == {}


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_thousands_of_damaged_files(reader, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert unclean(READERS[reader], tmp_path, LONG) == {}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 << 10


def test_the_damage_is_real(tmp_path):
    """About half of the damaged files at least are refused, and some are read."""
    for name, make in READERS.items():
        (tmp_path / name).mkdir()
        reader, refused = make(tmp_path / name), 0
        for seed in range(40):
            content = reader.damage(random.Random(seed))
            reader.path.write_bytes(content)
            try:
                load(reader.path) if name == "networks" else reader.read()
            except (DataError, FileError, RuntimeError):
                refused += 1
        assert 8 < refused < 40, name
