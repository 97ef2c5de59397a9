"""Data that is damaged, odd or hostile: one clear answer each, and bounded memory.

A table of bad files first, then files that are odd and right, then files with random damage.
"""

import gzip
import io
import resource
import struct
import warnings
import zipfile

import numpy as np
import pytest
import torch

from sentei.datasets import load
from sentei.errors import DataError

ROWS = 20
X = np.arange(ROWS * 3.0).reshape(ROWS, 3) % 7
Y = np.arange(ROWS) % 2


def npz(**arrays):
    def write(folder):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns of a member that it pickles
            np.savez(folder / "own.npz", **arrays)
        return folder / "own.npz"

    return write


def members(**contents):
    """Write an .npz whose members are these bytes."""

    def write(folder):
        with zipfile.ZipFile(folder / "own.npz", "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in contents.items():
                packed.writestr(f"{name}.npy", content)
        return folder / "own.npz"

    return write


def raw(name, content):
    def write(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return write


def csv(text):
    return raw("own.csv", text.encode() if isinstance(text, str) else text)


def array(shape, dtype="<f8", body=b""):
    """Return a .npy file whose header announces this shape."""
    head = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + body


def saved(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def idx(values, kind=8, shape=None):
    shape = values.shape if shape is None else shape
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape) + values.tobytes()


PICTURES = (np.arange(24 * 6) % 256).astype(np.uint8).reshape(24, 2, 3)
LABELS = (np.arange(24) % 2).astype(np.uint8)


def idx_folder(**files):
    """Write a folder of IDX files; `files` replaces some of them by other bytes."""

    def write(folder):
        images, labels = idx(PICTURES), idx(LABELS)
        held = {"train_images": images, "train_labels": labels}
        held |= {"t10k_images": images, "t10k_labels": labels} | files
        for name, content in held.items():
            part, what = name.split("_")[:2]
            packed = ".gz" if content[:2] == b"\x1f\x8b" else ""
            number = 3 if what == "images" else 1
            (folder / f"{part}-{what}-idx{number}-ubyte{packed}").write_bytes(content)
        return folder

    return write


def table(*rows, header="a,b,y", more=18):
    """Return a table with these rows and `more` good ones."""
    return "\n".join(
        [header, *rows, *(f"{n},{n * n % 7},{'no' if n % 2 else 'yes'}" for n in range(more))]
    )


# Bad files: what is written, how it is read, and what the message says.
BAD = {
    # .npz
    "negative classes": (npz(x=X, y=Y - 1), "row 0 has -1"),
    "huge classes": (npz(x=X, y=Y * 10**12), "0 to 99999; row 1 has 1000000000000"),
    "classes beyond int64": (npz(x=X, y=Y.astype(np.uint64) * (2**64 - 1)), "18446744073709551615"),
    "whole numbers as floats": (npz(x=X, y=Y.astype(float)), r"astype\(int\).*regression=True"),
    "a column of whole floats": (npz(x=X, y=Y[:, None].astype(float)), "regression=True"),
    "NaN targets": (npz(x=X, y=np.where(Y, np.nan, 0.5)), "targets must be finite; row 1"),
    "infinite targets": (npz(x=X, y=np.where(Y, np.inf, 0.5)), "targets must be finite; row 1"),
    "targets beyond float32": (npz(x=X, y=np.where(Y, 1e300, 0.5)), "targets must be finite"),
    "datetime targets": (npz(x=X, y=Y.astype("datetime64[D]")), r"they are datetime64\[D\]"),
    "duration targets": (npz(x=X, y=Y.astype("timedelta64[s]")), r"they are timedelta64\[s\]"),
    "complex targets": (npz(x=X, y=Y + 1j), "they are complex128"),
    "records as targets": (
        npz(x=X, y=np.zeros(ROWS, [("a", int)])),
        "must be class numbers, names",
    ),
    "objects as targets": (npz(x=X, y=np.array([{}] * ROWS)), "without pickle"),
    "objects as inputs": (npz(x=np.array([[None]] * ROWS), y=Y), "without pickle"),
    "one-hot targets": (npz(x=X, y=np.eye(2, dtype=int)[Y]), r"argmax\(1\)"),
    "names in a table": (npz(x=X, y=np.array([["a", "b"]] * ROWS)), "one a sample"),
    "an empty name": (npz(x=X, y=np.array(["", "a"] * 10)), "no target"),
    "names that are no text": (npz(x=X, y=np.array([b"\xff", b"a"] * 10)), "is not UTF-8"),
    "a name for each sample": (
        npz(x=X, y=np.arange(ROWS).astype(str)),
        "20 classes for 20 samples",
    ),
    "one target": (npz(x=X, y=np.int64(3)), "one row per sample"),
    "one input": (npz(x=np.float64(3), y=Y), "one row per sample"),
    "no rows": (npz(x=X[:0], y=Y[:0]), "a value at least"),
    "no columns": (npz(x=X[:, :0], y=Y), "a value at least"),
    "unequal rows": (npz(x=X[:9], y=Y), r"\(9, 3\) and \(20,\)"),
    "complex inputs": (npz(x=X + 1j, y=Y), "real numbers; they are complex128"),
    "datetime inputs": (npz(x=X.astype("datetime64[D]"), y=Y), "real numbers; they are datetime64"),
    "infinite inputs": (npz(x=np.where(X == 6, np.inf, X), y=Y), "row 2, column 0 holds inf"),
    "inputs beyond float32": (npz(x=X * 1e300, y=Y), "inputs must be finite"),
    "three samples": (npz(x=X[:3], y=Y[:3]), "too few"),
    "other names": (npz(data=X, labels=Y), "it holds 'data', 'labels'"),
    "no arrays": (npz(), "it holds nothing"),
    "a single array": (raw("own.npz", saved(X)), "cannot be read as arrays"),
    "no zip": (raw("own.npz", b"PK\x03\x04 and then nothing"), "cannot be read as arrays"),
    "an empty file": (raw("own.npz", b""), "cannot be read as arrays"),
    "a pickle": (raw("own.npz", b"\x80\x04K\x01."), "cannot be read as arrays"),
    "a pickle inside": (members(x=b"\x80\x04K\x01.", y=saved(Y)), "real numbers|without pickle"),
    "no array inside": (members(x=b"hello", y=saved(Y)), "real numbers"),
    "a truncated array": (members(x=saved(X)[:-8], y=saved(Y)), "cannot be read as arrays"),
    "a huge array": (members(x=array((10**12, 3)), y=saved(Y)), "cannot be read as arrays"),
    "a negative size": (members(x=array((-4, 3)), y=saved(Y)), "cannot be read as arrays"),
    "a size beyond all": (members(x=array((2**62, 2**62)), y=saved(Y)), "cannot be read as arrays"),
    "no dtype": (members(x=array((4, 3), "zz"), y=saved(Y)), "cannot be read as arrays"),
    "a header that is code": (
        members(x=array("__import__('os').getpid()"), y=saved(Y)),
        "cannot be read as arrays",
    ),
    "deep brackets": (members(x=array("(" * 9000), y=saved(Y)), "cannot be read as arrays"),
    # .csv
    "a missing cell": (csv(table("1,,no")), r"line 2, b: ''.*in 1 of 19 rows.*missing='drop'"),
    "NA": (csv(table("1,NA,no")), r"line 2, b: 'NA'.*missing='mean'"),
    "a word": (csv(table("1,red,no")), r"line 2, b: 'red'.*Text is in 'b'. Pass text='one-hot'"),
    "infinity": (csv(table("1,inf,no")), "line 2, b: 'inf' is not a finite number"),
    "a decimal comma": (csv(table('1,"2,5",no')), "'2,5'.*write decimals with a point"),
    "a number beyond float32": (csv(table("1,1e300,no")), "must be finite"),
    "a column twice": (csv(table("1,2,no", header="a,a,y")), "'a' stands 2 times"),
    "ragged rows": (csv(table("1,2,3,no")), "line 2: 4 cells where line 1 has 3"),
    "one column": (csv("y\n1\n2\n"), "at least two columns"),
    "nothing": (csv(""), "at least two columns"),
    "blank lines": (csv("\n\n \n"), "at least two columns"),
    "a header alone": (csv("a,b,y\n"), "no rows"),
    "an open quote": (csv(table('1,"2,no')), "not a table in UTF-8"),
    "text after a quote": (csv(table('1,"2"3,no')), "not a table in UTF-8"),
    "UTF-16": (csv(table("1,2,no").encode("utf-16")), "not a table in UTF-8"),
    "Latin-1": (csv(table("1,2,n\xf6").encode("latin-1")), "not a table in UTF-8"),
    "binary": (csv(bytes(range(256)) * 4), "not a table in UTF-8"),
    "a NUL": (csv(table("1,2\0,no")), "not a finite number"),
    "an endless cell": (csv(table(f"1,{'9' * 200_000},no")), "not a table in UTF-8"),
    "no target": (csv(table("1,2,")), "has no target"),
    "a class for each row": (
        csv("a,y\n" + "".join(f"{n},{n / 7}\n" for n in range(20))),
        "regression=True",
    ),
    # IDX
    "magic of something else": (idx_folder(train_images=b"\x89PNG\r\n"), "begins with 89 50 4e 47"),
    "an empty IDX": (idx_folder(train_labels=b""), "begins with nothing"),
    "an unknown type": (idx_folder(train_images=idx(PICTURES, kind=7)), "not an IDX file"),
    "a truncated header": (idx_folder(train_images=idx(PICTURES)[:9]), "not an IDX file"),
    "truncated values": (idx_folder(train_images=idx(PICTURES)[:-1]), "is truncated"),
    "too many values": (idx_folder(train_images=idx(PICTURES) + b"\0"), "is too long"),
    "200 dimensions": (
        idx_folder(train_images=idx(PICTURES, shape=(0,) * 200)),
        "1 to 8 dimensions",
    ),
    "a huge IDX": (
        idx_folder(train_images=idx(PICTURES, shape=(2**32 - 1,) * 3)),
        "bytes of memory",
    ),
    "a huge packed IDX": (
        idx_folder(train_images=gzip.compress(idx(PICTURES, shape=(2**32 - 1,) * 3))),
        "bytes of memory",
    ),
    "a large claim": (
        idx_folder(train_images=gzip.compress(idx(PICTURES, shape=(2**30, 1, 1)))),
        "is truncated",
    ),
    "a bomb": (
        idx_folder(train_images=gzip.compress(idx(PICTURES) + bytes(200 << 20), 1)),
        "too long",
    ),
    "a truncated gzip": (idx_folder(train_images=gzip.compress(idx(PICTURES))[:-9]), "damaged"),
    "no gzip": (idx_folder(train_images=b"\x1f\x8bno gzip"), "damaged"),
    "no images": (idx_folder(train_images=idx(PICTURES[:0])), "at least one image"),
    "no pixels": (idx_folder(train_images=idx(PICTURES[:, :0])), "at least one image"),
    "flat images": (idx_folder(train_images=idx(PICTURES.reshape(24, 6))), "3 dimensions"),
    "fewer labels": (idx_folder(train_labels=idx(LABELS[:9])), "one row per sample"),
    "labels that are values": (
        idx_folder(train_labels=idx(LABELS.astype(">f4"), kind=0x0D)),
        "whole numbers as labels",
    ),
    "negative labels": (
        idx_folder(train_labels=idx(LABELS.view(np.int8) - 1, kind=0x09)),
        "row 0 has -1",
    ),
    "huge labels": (
        idx_folder(
            train_labels=idx(((LABELS.astype("i8") * 2_000_000_000).astype(">i4")), kind=0x0C)
        ),
        "row 1 has 2000000000",
    ),
    "pixels that are no numbers": (
        idx_folder(train_images=idx((PICTURES * np.nan).astype(">f4"), kind=0x0D)),
        "inputs must be finite",
    ),
    "test images of another size": (
        idx_folder(t10k_images=idx(PICTURES.reshape(24, 3, 2))),
        "images of one size",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_gets_one_clear_answer(what, tmp_path):
    write, says = BAD[what]
    path = write(tmp_path)
    with pytest.raises(DataError, match=f"(?s){says}") as refused:
        load(path)
    assert str(tmp_path) in str(refused.value)


def test_a_bomb_takes_no_memory(tmp_path):
    """The header announces 144 bytes; 2 GiB of zeros follow, packed in 2 MB."""
    block = gzip.compress(bytes(64 << 20), 9)
    bomb = gzip.compress(idx(PICTURES)) + block * 32
    path = idx_folder(train_images=bomb)(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="too long"):
        load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_an_npz_larger_than_memory_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda _: 10)  # a machine of 100 bytes
    with pytest.raises(DataError, match=r"announces 896 bytes.* has 100 bytes of memory"):
        load(npz(x=X, y=Y)(tmp_path))


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    path = npz(x=X, y=np.array([Trap()] * ROWS))(tmp_path)
    with pytest.raises(DataError, match="without pickle"):
        load(path)
    assert not (tmp_path / "sprung").exists()


# Odd and right.


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", ">i4", "i8", "?"])
def test_class_numbers_of_every_type(dtype, tmp_path):
    split = load(npz(x=X, y=Y.astype(dtype))(tmp_path))
    assert split.train.targets.dtype == torch.int64
    assert split.classes == ("0", "1")
    assert split.train.targets.bincount().tolist() == [7, 7]


def test_a_column_of_class_numbers_and_a_row_of_inputs(tmp_path):
    split = load(npz(x=X[:, 0], y=Y[:, None])(tmp_path))
    assert (split.shape, tuple(split.train.targets.shape)) == ((1,), (14,))


@pytest.mark.parametrize("y", [Y, Y.astype(float), Y.astype(np.uint8)])
def test_whole_numbers_are_values_if_asked(y, tmp_path):
    split = load(npz(x=X, y=y)(tmp_path), regression=True)
    assert split.train.targets.dtype == torch.float32
    assert split.classes == ()


def test_names_may_be_bytes(tmp_path):
    assert load(npz(x=X, y=np.array([b"no", b"yes"] * 10))(tmp_path)).classes == ("no", "yes")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separators_line_ends_and_marks(separator, end, mark, tmp_path):
    rows = [
        ["a, or b", "c", "y"],
        *([str(n), str(n * n), "no" if n % 2 else "yes"] for n in range(20)),
    ]
    text = end.join(separator.join(f'"{cell}"' for cell in row) for row in rows)
    split = load(csv(mark + text)(tmp_path))
    assert (split.features, split.classes) == (("a, or b", "c"), ("no", "yes"))
    assert sum(part.rows for part in (split.train, split.validation, split.test)) == 20


def numbers_below(header, classes=("no", "yes"), width=3):
    rows = (
        ",".join([*(str(n * k % 7) for k in range(1, width)), classes[n % 2]]) for n in range(20)
    )
    return "\n".join([header, *rows])


@pytest.mark.parametrize(
    ("header", "classes", "features"),
    [
        ("400,450,class", ("no", "yes"), ("400", "450")),
        ("2001,2002,class", ("1", "2"), ("2001", "2002")),
        ("2002,2001,class", ("1", "2"), ("2002", "2001")),
        ("name,7,class", ("no", "yes"), ("name", "7")),
        ("0,1,2,3", ("3", "4"), ("0", "1", "2")),
        ("1,2,3,4", ("no", "yes"), ("1", "2", "3")),
        ("1,2,no", ("no", "yes"), None),
        ("2,1,maybe", ("no", "yes"), None),
        ("0.5,0.7,maybe", ("no", "yes"), None),
        ("1,2,3", ("3", "4"), None),
    ],
)
def test_a_header_may_be_of_numbers(header, classes, features, tmp_path):
    split = load(csv(numbers_below(header, classes, header.count(",") + 1))(tmp_path))
    total = sum(part.rows for part in (split.train, split.validation, split.test))
    named = features is not None
    assert total == (20 if named else 21)
    assert split.features == (features if named else ("column 0", "column 1"))


def test_a_target_may_be_named_by_a_number(tmp_path):
    text = "y,2001,2002\n" + "".join(f"{n % 7},{n * n % 5},{n % 2}\n" for n in range(20))
    split = load(csv(text)(tmp_path), target=2002)
    assert (split.features, split.classes) == (("y", "2001"), ("0", "1"))


def gaps():
    rows = [
        f"{n},{'' if n % 5 == 0 else n + 1},{'NA' if n == 7 else 'red'},{n % 2}" for n in range(20)
    ]
    return csv("\n".join(["a,b,colour,y", *rows]).replace("3,4,red", "3,4,blue"))


def unscaled(part, split):
    return part.inputs.double() * split.scaling.std + split.scaling.mean


def test_rows_with_missing_cells_are_dropped(tmp_path):
    path = gaps()(tmp_path)
    split = load(path, missing="drop", text="one-hot")
    assert split.features == ("a", "b", "colour=blue", "colour=red")
    values = torch.cat([unscaled(p, split) for p in (split.train, split.validation, split.test)])
    a = values[:, 0].round()
    assert sorted(a.int().tolist()) == [n for n in range(20) if n % 5 and n != 7]
    assert torch.allclose(values[:, 1], a + 1, atol=1e-4)
    assert torch.allclose(values[:, 2], (a == 3).double(), atol=1e-4)
    assert torch.allclose(values[:, 3], (a != 3).double(), atol=1e-4)


def test_missing_cells_become_the_mean_of_the_training_part(tmp_path):
    split = load(gaps()(tmp_path), missing="mean", text="one-hot")
    rows = unscaled(split.train, split)
    a = rows[:, 0].round()
    known = a % 5 != 0
    assert torch.allclose(rows[known, 1], a[known] + 1, atol=1e-4)
    mean = (a[known] + 1).mean()
    for part in (split.train, split.validation, split.test):
        values = unscaled(part, split)
        holes = values[:, 0].round() % 5 == 0
        assert torch.allclose(values[holes, 1], mean, atol=1e-4)
    assert sum(part.rows for part in (split.train, split.validation, split.test)) == 20


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "in 5 of 20 rows.*Text is in 'colour'. Pass text='one-hot'"),
        ({"missing": "mean"}, "line 2, colour: 'red'.*Text is in 'colour'"),
        ({"missing": "drop"}, "line 3, colour: 'red'.*Text is in 'colour'"),
        ({"text": "one-hot"}, "line 2, b: ''.*missing='drop'"),
    ],
)
def test_what_is_not_asked_for_is_refused(options, says, tmp_path):
    with pytest.raises(DataError, match=f"(?s){says}"):
        load(gaps()(tmp_path), **options)


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (table("1,,no", more=0), {"missing": "drop"}, "every row has a missing cell"),
        ("a,b,y\n" + "1,,no\n2,,yes\n" * 9, {"missing": "mean"}, "'b' has no number"),
        (table("1,2,"), {"missing": "mean"}, "has no target"),
        (
            "a,b,y\n" + "".join(f"{n},w{n},no\n{n},w{n}x,yes\n" for n in range(9)),
            {"text": "one-hot"},
            "18 different words in 18 rows",
        ),
        (table("1,red,no"), {"text": "one-hot"}, "line 2, b: 'red'"),
        (table("1,2,no"), {"regression": True}, "line 2, y: 'no'.*target column of numbers"),
    ],
)
def test_what_cannot_be_done_with_cells_is_refused(text, options, says, tmp_path):
    with pytest.raises(DataError, match=f"(?s){says}"):
        load(csv(text)(tmp_path), **options)


@pytest.mark.parametrize("options", [{"missing": "fill"}, {"text": "onehot"}])
def test_unknown_options_are_answered_with_the_known_ones(options, tmp_path):
    with pytest.raises(ValueError, match=r"Known: (drop, mean|one-hot)"):
        load(csv(table("1,2,no"))(tmp_path), **options)
