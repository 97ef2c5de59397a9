"""Data sets: those of the package, a user's own files, and files that are refused."""

from __future__ import annotations

import gzip
import hashlib
import struct
from importlib.resources import files

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sentei import datasets
from sentei.datasets import Scaling, check_samples, fingerprint, letter, load, mnist, stratified
from sentei.errors import DataError


def rows_of(inputs: torch.Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in inputs}


# Parts.


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=120),
    st.lists(st.floats(0.01, 1), min_size=1, max_size=4),
    st.integers(0, 2**31),
)
def test_parts_are_disjoint_complete_and_in_proportion(labels, weights, seed):
    targets, total = torch.tensor(labels), len(labels)
    sizes = [int(total * weight / sum(weights)) for weight in weights]
    parts = stratified(targets, sizes, seed)
    rest = sorted(set(range(total)) - {row for part in parts for row in part.tolist()})
    assert [len(part) for part in parts] == sizes
    assert len(rest) == total - sum(sizes)  # no row twice, or more would be left over
    for label in set(labels):
        count = labels.count(label)
        for part, size in zip(parts, sizes, strict=True):
            share = int((targets[part] == label).sum())
            assert abs(share - count * size / total) <= 1


def test_parts_depend_on_the_seed_alone():
    targets = torch.arange(50) % 3
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (stratified(targets, (30, 20), seed) for seed in (4, 4, 5))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_values_to_predict_are_drawn_without_classes():
    (some,) = stratified(torch.linspace(0, 1, 10), (4,))
    assert len(set(some.tolist())) == 4


@pytest.mark.parametrize("sizes", [(5,), (3, 2), (-1, 2)])
def test_parts_larger_than_the_data_are_refused(sizes):
    with pytest.raises(DataError, match="cannot be drawn from 4"):
        stratified(torch.zeros(4, dtype=torch.long), sizes)


def test_scaling_is_the_training_parts_and_leaves_constants():
    # mean 3, deviations -2, 0, 2: std is sqrt(8 / 3); 0.1 is not a sum of powers of two
    train = torch.tensor([[1.0, 0.1], [3.0, 0.1], [5.0, 0.1]])
    scaling = Scaling.of(train)
    assert scaling.mean[0] == 3
    assert scaling.std[0].item() == pytest.approx((8 / 3) ** 0.5)
    assert scaling.std[1] == 1
    unseen = scaling(torch.tensor([[7.0, 2.1]]))
    assert unseen[0].tolist() == pytest.approx([4 / (8 / 3) ** 0.5, 2.0])


def test_fingerprint_sees_every_byte_shape_and_type():
    x, y = torch.arange(6.0).reshape(2, 3), torch.tensor([0, 1])
    changed = x.clone()
    changed[1, 2] = torch.tensor(5.0).nextafter(torch.tensor(6.0))
    others = [(changed, y), (x.reshape(3, 2), y), (x, y.int()), (x.double(), y), (y, x)]
    prints = [fingerprint(pair) for pair in [(x, y), *others]]
    assert len(set(prints)) == 6
    assert fingerprint((x.T.contiguous().T, y.clone())) == prints[0]
    assert len(prints[0]) == 16


# What comes with the package.


def test_mnist_is_the_real_one_and_no_image_is_in_two_parts():
    split = mnist()
    assert [part.rows for part in (split.train, split.validation, split.test)] == [
        *(55_000, 5_000, 10_000)
    ]
    assert split.shape == (784,)
    assert (split.train.inputs.min(), split.train.inputs.max()) == (0, 1)
    # MNIST's own counts of each digit in its training file.
    whole = torch.tensor([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    validation = split.validation.targets.bincount()
    assert torch.equal(split.train.targets.bincount() + validation, whole)
    assert ((validation - whole / 12).abs() <= 1).all()
    both = torch.cat([split.train.inputs, split.validation.inputs]).sum(0, dtype=torch.float64)
    full = mnist("full")
    assert (both - full.train.inputs.sum(0, dtype=torch.float64)).abs().max() < 1e-6
    assert ((full.train.inputs > 0).any(0)).sum() == 717  # pixels that are ever inked
    assert (full.validation.rows, full.train.rows) == (0, 60_000)
    assert full.train.targets[:5].tolist() == [5, 0, 4, 1, 9]
    assert split.features[28 * 3 + 5] == "pixel 3,5"
    assert split.classes == tuple("0123456789")


def test_mnist_splits_of_the_papers():
    small = mnist("shrinking", flat=False)
    assert small.shape == (1, 20, 20)
    assert small.train.targets.bincount().tolist() == [450] * 10
    assert small.validation.targets.bincount().tolist() == [50] * 10
    assert not rows_of(small.train.inputs) & rows_of(small.validation.inputs)
    images = mnist("full", flat=False)
    assert torch.equal(small.test.inputs, images.test.inputs[:, :, 4:24, 4:24])
    assert len(small.features) == 400
    zheng = load("mnist:distinctiveness", flat=False)
    assert torch.equal(zheng.train.inputs, images.train.inputs[:20_000])
    assert torch.equal(zheng.test.targets, images.test.targets[:2_000])
    later = rows_of(images.train.inputs[20_000:])
    assert rows_of(zheng.validation.inputs) <= later
    assert zheng.validation.rows == 5_000


def test_letter_is_the_real_one_scaled_by_its_training_part():
    split = letter()
    parts = (split.train, split.validation, split.test)
    assert [part.rows for part in parts] == [14_000, 3_000, 3_000]
    counts = torch.stack([part.targets.bincount() for part in parts])
    assert (counts.sum(0).min(), counts.sum(0).max()) == (734, 813)
    assert ((counts[1] - counts.sum(0) * 0.15).abs() <= 1).all()
    assert split.train.inputs.mean(0).abs().max() < 1e-5
    assert (split.train.inputs.std(0, correction=0) - 1).abs().max() < 1e-5
    assert split.validation.inputs.mean(0).abs().max() > 1e-4  # not fitted on this
    assert (split.features[0], split.features[15], split.classes[25]) == ("x-box", "yegvx", "Z")


def test_letter_as_its_authors_split_it():
    split = load("letter:authors")
    assert [part.rows for part in (split.train, split.validation, split.test)] == [
        *(13_000, 3_000, 4_000)
    ]
    lines = (files(datasets) / "data/letter-recognition.data").read_text().split()
    wanted = [ord(line[0]) - ord("A") for line in lines[16_000:]]
    assert split.test.targets.tolist() == wanted
    assert split.scaling is not None
    raw = split.test.inputs[0].double() * split.scaling.std + split.scaling.mean
    assert raw.round().int().tolist() == [int(cell) for cell in lines[16_000].split(",")[1:]]


def test_data_files_are_whole_and_their_licences_beside_them():
    home = files(datasets) / "data"
    images = gzip.decompress((home / "mnist/t10k-images-idx3-ubyte.gz").read_bytes())
    assert hashlib.sha256(images).hexdigest().startswith("0fa7898d509279e4")
    text = (home / "LICENSES.md").read_text()
    assert all(word in text for word in ("CC BY-SA 3.0", "CC BY 4.0", "LeCun", "Slate"))


@pytest.mark.parametrize(
    ("name", "near"),
    [("mnsit", "'mnist'"), ("mnist:shrink", "'shrinking'"), ("letter:author", "'authors'")],
)
def test_unknown_names_are_answered_with_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"Did you mean {near}"):
        load(name)


def test_a_path_with_nothing_there():
    with pytest.raises(FileNotFoundError, match=r"gone\.csv"):
        load("gone.csv")


# A user's own files.


def table(tmp_path, text: str):
    path = tmp_path / "own.csv"
    path.write_text(text)
    return path


ROWS = [(i, 2 * i, ("no", "yes")[i % 2]) for i in range(20)]


def test_csv_with_a_header_and_named_target(tmp_path):
    text = "answer,a,b\n" + "".join(f"{label},{a},{b}\n" for a, b, label in ROWS)
    split = load(table(tmp_path, text), target="answer")
    assert (split.features, split.classes, split.shape) == (("a", "b"), ("no", "yes"), (2,))
    assert [part.rows for part in (split.train, split.validation, split.test)] == [14, 3, 3]
    assert split.scaling is not None
    for part in (split.train, split.validation, split.test):
        a, b = (part.inputs * split.scaling.std + split.scaling.mean).round().T.long()
        assert torch.equal(b, 2 * a)
        assert torch.equal(part.targets, a % 2)


def test_csv_without_a_header_takes_the_last_column_and_orders_classes_as_numbers(tmp_path):
    text = "".join(f"{a},{b},{(9, 10)[a % 2]}\n" for a, b, _ in ROWS)
    split = load(table(tmp_path, text))
    assert split.classes == ("9", "10")
    assert split.features == ("column 0", "column 1")
    assert split.train.rows + split.validation.rows + split.test.rows == 20


def test_csv_of_values_to_predict(tmp_path):
    text = "a,b,y\n" + "".join(f"{a},{b},{a / 7}\n" for a, b, _ in ROWS)
    path = table(tmp_path, text)
    with pytest.raises(DataError, match="regression=True"):
        load(path)
    split = load(path, regression=True)
    assert split.train.targets.shape == (14, 1)
    assert split.train.targets.dtype == torch.float32
    assert split.classes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,y\n1,2,x\n1,,y\n", "line 3, b: '' is not a finite number"),
        ("a,b,y\n1,2,x\n1,nan,y\n", "line 3, b: 'nan'"),
        ("a,b,y\n1,2,x\n1,y\n", "line 3: 2 cells where line 1 has 3"),
        ("a,b,y\n1,2,x\n1,2,\n", "no target"),
        ("a,b,y\n", "no rows"),
        ("", "at least two"),
        ("a,b,y\n1,2,x\n3,4,x\n", "too few"),
    ],
)
def test_bad_tables_are_refused_with_the_place(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load(table(tmp_path, text))


def test_bad_columns_are_refused(tmp_path):
    path = table(tmp_path, "alpha,beta,gamma\n1,2,3\n")
    with pytest.raises(ValueError, match="Did you mean 'alpha'"):
        load(path, target="alpah")
    with pytest.raises(ValueError, match="no column 3"):
        load(path, target=3)
    with pytest.raises(ValueError, match="no header"):
        load(table(tmp_path, "1,2,3\n"), target="alpha")


@pytest.mark.parametrize("names", [("inputs", "targets"), ("x", "y")])
def test_npz(tmp_path, names):
    x = np.arange(20 * 6.0).reshape(20, 2, 3)
    y = np.arange(20) % 4
    np.savez(tmp_path / "own.npz", **dict(zip(names, (x, y), strict=True)))
    flat, deep = load(tmp_path / "own.npz"), load(tmp_path / "own.npz", flat=False)
    assert (flat.shape, deep.shape, flat.classes) == ((6,), (2, 3), ("0", "1", "2", "3"))
    assert flat.scaling is not None
    rows = (flat.train.inputs * flat.scaling.std + flat.scaling.mean)[:, 0].div(6).round().long()
    assert torch.equal(rows % 4, flat.train.targets)


def test_npz_of_names_and_of_values(tmp_path):
    x, path = np.arange(20.0)[:, None], tmp_path / "own.npz"
    np.savez(path, x=x, y=np.array(["b", "a"] * 10))
    assert load(path).classes == ("a", "b")
    np.savez(path, x=x, y=x / 3)
    assert load(path).train.targets.shape == (14, 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, "it holds 'a'"),
        ({"x": np.zeros((4, 1)), "y": np.array([{}] * 4)}, "without pickle"),
        ({"x": np.zeros((4, 1)), "y": np.zeros(3, int)}, "one row per sample"),
        ({"x": np.zeros((4, 1)), "y": np.array([0, 1, -1, 0])}, "row 2 has -1"),
        ({"x": np.array([[0.0], [np.inf]]), "y": np.zeros(2, int)}, "row 1, column 0 holds inf"),
        ({"x": np.array([["a"]]), "y": np.zeros(1, int)}, "real numbers"),
    ],
)
def test_bad_npz_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "own.npz")


def test_a_file_that_is_no_npz(tmp_path):
    (tmp_path / "own.npz").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(DataError, match=r"own\.npz"):
        load(tmp_path / "own.npz")


def idx(values: np.ndarray, kind: int = 8) -> bytes:
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, kind, values.ndim, *values.shape)
    return head + values.tobytes()


def idx_files(folder, packed: bool) -> None:
    for stem, count in (("train", 24), ("t10k", 5)):
        images = (np.arange(count * 6) % 256).astype(np.uint8).reshape(count, 2, 3)
        labels = (np.arange(count) % 2).astype(np.uint8)
        for name, values in ((f"{stem}-images-idx3", images), (f"{stem}-labels-idx1", labels)):
            data = idx(values)
            path = folder / f"{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data) if packed else data)


@pytest.mark.parametrize("packed", [False, True])
def test_folder_of_idx_files(tmp_path, packed):
    idx_files(tmp_path, packed)
    split = load(tmp_path, flat=False)
    assert [part.rows for part in (split.train, split.validation, split.test)] == [22, 2, 5]
    assert split.shape == (1, 2, 3)
    assert split.test.inputs[0].flatten().mul(255).round().int().tolist() == [0, 1, 2, 3, 4, 5]
    assert split.validation.targets.bincount().tolist() == [1, 1]


def test_idx_of_big_endian_floats(tmp_path):
    (tmp_path / "values").write_bytes(idx(np.array([1.5, -2.0], dtype=">f4"), kind=0x0D))
    from sentei.datasets.idx import read_idx

    assert read_idx(tmp_path / "values").tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "truncated: its header announces"),
        (lambda data: data + b"\0", "too long"),
        (lambda data: b"\x89PNG" + data, "not an IDX file"),
        (lambda _: b"", "not an IDX file"),
        (lambda data: data[:6], "not an IDX file"),
    ],
)
def test_damaged_idx_is_refused_by_name(tmp_path, damage, message):
    idx_files(tmp_path, packed=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path.name} is {message}"):
        load(tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda _: b"no gzip"])
def test_damaged_gzip_is_refused_by_name(tmp_path, damage):
    idx_files(tmp_path, packed=True)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"{path.name} is truncated or damaged"):
        load(tmp_path)


def test_a_missing_idx_file_is_named(tmp_path):
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        load(tmp_path)


# What is refused everywhere.

X, Y = torch.zeros(3, 2), torch.tensor([0, 1, 2])
BROKEN = X.clone()
BROKEN[2, 1] = torch.nan


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "message"),
    [
        (X, Y[:2], {}, r"\(3, 2\) and \(2,\)"),
        (X[:0], Y[:0], {}, "no rows"),
        (X, Y, {"width": 4}, "must have 4 values; these have 2"),
        (BROKEN, Y, {}, "row 2, column 1 holds nan"),
        (X, torch.tensor([0, torch.inf, 0]), {}, "targets must be finite; row 1 holds inf"),
        (X, Y, {"classes": 2}, "row 2 has 2"),
        (X, -Y, {"classes": 3}, "row 1 has -1"),
        (X, Y.float(), {"classes": 3}, "torch.float32"),
    ],
)
def test_bad_samples_are_refused(inputs, targets, options, message):
    with pytest.raises(DataError, match=message):
        check_samples(inputs, targets, **options)


def test_good_samples_pass_though_their_sum_overflows():
    huge = torch.full((2, 2), 3e38)
    check_samples(huge, Y[:2], width=2, classes=3)
    assert not huge.sum().isfinite()


def test_the_first_samples():
    samples = datasets.Samples(X, Y)
    assert samples.first(2).targets.tolist() == [0, 1]
    assert samples.first(9).rows == 3
    with pytest.raises(ValueError, match="count=0"):
        samples.first(0)
