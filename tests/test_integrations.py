"""Keras and Lightning own the loop; what is dead stays dead in theirs, too."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sentei import CriterionError, StructureError, find_units, geometric, linear, ranked

os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras", reason="Keras is an extra: pip install 'sentei[keras]'")
pl = pytest.importorskip("lightning.pytorch", reason="an extra: pip install 'sentei[lightning]'")

from sentei.integrations import keras as for_keras  # noqa: E402
from sentei.integrations import lightning as for_lightning  # noqa: E402

# Keras converts tensors of torch in a way that numpy 2 is about to forbid.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation"),
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec:FutureWarning"),
    pytest.mark.filterwarnings(
        "ignore::lightning.pytorch.utilities.rank_zero.LightningDeprecationWarning"
    ),
]

IMAGES = np.random.default_rng(0).random((64, 12, 12, 1), dtype=np.float32)
CLASSES = np.arange(64) % 3


def image_network(optimizer="adadelta"):
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.MaxPooling2D(2),
            layers.Flatten(name="squash"),
            layers.Dense(8, activation="sigmoid", name="hidden"),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def fit(model, callback, epochs=2):
    model.fit(IMAGES, CLASSES, batch_size=8, epochs=epochs, verbose=0, callbacks=[callback])


@pytest.mark.parametrize("optimizer", ["adadelta", "adam", "sgd", "rmsprop"])
def test_keras_connections_go_by_the_schedule_and_stay_dead(optimizer):
    model = image_network(optimizer)
    anneal = for_keras.PruneWhileTraining(
        ranked("magnitude", linear(by="10 %"), within="group"), ["hidden", "out"], every=4
    )
    fit(model, anneal)
    assert (anneal.updates, anneal.events) == (16, 4)
    for name, size in (("hidden", 800), ("out", 24)):
        kernel = model.get_layer(name).kernel.numpy()
        gone = 4 * (size // 10)
        assert (kernel == 0).sum() == gone
        for variable in model.optimizer.variables:
            if f"_{name}_kernel_" in variable.path:
                assert (variable.numpy()[kernel == 0] == 0).all()
    assert (model.get_layer("conv").kernel.numpy() != 0).all()
    fit(model, anneal, epochs=1)  # a second fit goes on
    assert (anneal.updates, anneal.events) == (24, 6)
    assert (model.get_layer("hidden").kernel.numpy() == 0).sum() == 480


def test_keras_units_go_by_silencing_who_reads_them():
    model = image_network()
    callback = for_keras.PruneWhileTraining(
        ranked("magnitude", linear(by=1), within="group"), every=8, units=True
    )
    fit(model, callback)
    conv, hidden = callback.groups
    assert (conv.name, conv.kind, conv.size) == ("conv", "channel", 4)
    assert (hidden.name, hidden.kind, hidden.size) == ("hidden", "neuron", 8)
    (channel, _), (unit, _) = (callback.mask.dead(group).tolist() for group in callback.groups)
    read = model.get_layer("hidden").kernel.numpy().reshape(25, 4, 8)
    assert not read[:, channel].any()
    assert not model.get_layer("out").kernel.numpy()[unit].any()
    before = model.predict(IMAGES, verbose=0)
    loud = model.get_layer("conv")  # whatever the dead channel puts out, nobody hears it
    kernel = loud.kernel.numpy().copy()
    kernel[..., channel] += 100
    loud.kernel.assign(kernel)
    assert np.array_equal(model.predict(IMAGES, verbose=0), before)


def test_keras_layers_that_cannot_be_pruned_are_named():
    propose = ranked("magnitude", linear(by=1))
    for layers, error, message in (
        (["hiden"], ValueError, "Did you mean 'hidden'"),
        (["squash"], StructureError, "no kernel to prune"),
    ):
        model = image_network()
        with pytest.raises(error, match=message):
            fit(model, for_keras.PruneWhileTraining(propose, layers))
    with pytest.raises(CriterionError, match="looks at weights"):
        fit(image_network(), for_keras.PruneWhileTraining(
            ranked("ablation", linear(by=1)), every=1, units=True))  # fmt: skip


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def loader():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, generator=random)
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8
    )


def trainer(folder, callback, epochs=2):
    return pl.Trainer(
        max_epochs=epochs, callbacks=[callback], accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_with_the_callback_and_goes_on_from_a_checkpoint(tmp_path):
    def make():
        return for_lightning.PruneWhileTraining(
            ranked("magnitude", geometric(by="20 %")), every="1 epoch"
        )

    module, callback = Module(), make()
    first = trainer(tmp_path, callback)
    first.fit(module, loader())
    assert (callback.pruner.updates, callback.pruner.events) == (16, 2)
    assert sum(int((p == 0).sum()) for p in module.parameters() if p.ndim > 1) == 80 - 51
    first.save_checkpoint(tmp_path / "kept.ckpt")
    again, callback = Module(), make()
    trainer(tmp_path, callback, epochs=4).fit(again, loader(), ckpt_path=tmp_path / "kept.ckpt")
    assert (callback.pruner.updates, callback.pruner.events) == (32, 4)
    left = sum(callback.pruner.mask.count(group) for group in callback.pruner.groups)
    assert left == round(80 * 0.8**4)


@pytest.mark.filterwarnings("ignore")
def test_lightning_shows_its_batches_to_criteria_that_measure(tmp_path):
    module = Module()
    callback = for_lightning.PruneWhileTraining(
        ranked("ablation", linear(by=2)),
        lambda found: find_units(found, torch.zeros(2, 6)),
        every=8,
    )
    trainer(tmp_path, callback).fit(module, loader())
    (units,) = callback.pruner.groups
    dead = callback.pruner.mask.dead(units)
    assert len(dead) == 4
    assert not module.net[2].weight[:, dead].any()


@pytest.mark.parametrize("name", ["keras", "lightning"])
def test_a_missing_extra_says_how_to_install_it(name):
    code = (
        f"import sys; sys.modules['{name}'] = None\n"
        f"try: import sentei.integrations.{name}\n"
        f"except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"pip install 'sentei[{name}]'" in done.stdout


def example(name):
    path = Path(__file__).parent.parent / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_examples_run():
    mask, right = example("annealing_keras").main(epochs=1, images=64)
    assert [group.name for group in mask.groups] == ["hidden", "digits"]
    assert 0 <= right <= 1
    mask, right = example("annealing_lightning").main(epochs=2)
    assert sum(mask.count(group) for group in mask.groups) == round((16 * 128 + 128 * 26) / 5)
    assert right > 0.5
