"""Pruning in Keras and Lightning training loops: dead weights stay dead."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sentei import find_synapses, find_units, geometric, linear, load, only, ranked, save
from sentei.errors import CriterionError, LossError, ScheduleError, StructureError

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
ROWS = IMAGES[:, 0, :4, 0]
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


def test_keras_units_that_go_are_the_smallest_and_their_readers_slots_go_along():
    model = image_network(keras.optimizers.Adam(0.0))  # remembers, but never moves
    for name, unit in (("conv", 2), ("hidden", 5)):
        kernel = model.get_layer(name).kernel
        small = kernel.numpy().copy()
        small[..., unit] *= 0.01
        kernel.assign(small)
    callback = for_keras.PruneWhileTraining(
        ranked("magnitude", linear(by=1), within="group"), every=2, total=2, units=True
    )
    fit(model, callback, epochs=1)
    assert [callback.mask.dead(group).tolist() for group in callback.groups] == [[2], [5]]
    slots = {v.path.rpartition("/")[2]: v.numpy() for v in model.optimizer.variables}
    for name, dead in (("hidden", np.arange(100) % 4 == 2), ("out", np.arange(8) == 5)):
        momentum, velocity = (slots[found] for found in slots if f"{name}_kernel_" in found)
        for slot in (momentum, velocity):
            assert not slot[dead].any()
            assert slot[~dead].any()


def test_keras_layers_that_cannot_be_pruned_are_named():
    propose = ranked("magnitude", linear(by=1))
    for layers, error, message in (
        (["hiden"], ValueError, "Did you mean 'hidden'"),
        (["squash"], StructureError, "no kernel to prune"),
    ):
        model = image_network()
        with pytest.raises(error, match=message):
            fit(model, for_keras.PruneWhileTraining(propose, layers))


@pytest.mark.parametrize(
    "optimizer",
    ["adadelta", "adam", "sgd", "rmsprop", "adamw", "nadam", "lion", "muon", "adafactor",
     "adamax", "lamb", "adagrad", "ftrl", "loss_scale", "averaged", "schedule_free"],
)  # fmt: skip
def test_keras_holds_what_every_optimizer_remembers_and_nothing_else(optimizer):
    made = {
        "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), 2.0),
        "averaged": lambda: keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True),
        "lamb": lambda: keras.optimizers.Lamb(),
        "schedule_free": lambda: keras.optimizers.ScheduleFreeAdamW(),
    }
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    model = keras.Sequential(
        [
            keras.Input((4,)),
            *(dense(4, name=name) for name in ("fc", "big_fc", "fc_big", "fc_kernel")),
            dense(3, activation="softmax", name="out"),
        ]
    )
    model.compile(made.get(optimizer, lambda: optimizer)(), "sparse_categorical_crossentropy")
    anneal = for_keras.PruneWhileTraining(
        ranked("magnitude", linear(by="25 %")), ["fc"], every=2, total=4
    )
    model.fit(ROWS, CLASSES, batch_size=8, epochs=1, verbose=0, callbacks=[anneal])
    dead = model.get_layer("fc").kernel.numpy() == 0
    assert dead.sum() == 8
    assert all(np.isfinite(variable.numpy()).all() for variable in model.variables)
    scope = model.get_layer("fc").kernel.path.removesuffix("fc/kernel").replace("/", "_")
    others = tuple(f"{scope}{name}_kernel_" for name in ("big_fc", "fc_big", "fc_kernel"))
    slots = [variable for variable in model.optimizer.variables if variable.shape == (4, 4)]
    for variable in slots:
        name = variable.path.rpartition("/")[2]
        if name.startswith(others) or name == f"{scope}fc_kernel_accumulator":
            assert (variable.numpy()[dead] != 0).all()
        else:
            assert not variable.numpy()[dead].any()
    assert len(slots) % 4 == 0
    assert slots or optimizer == "sgd"


def proposals(total=None, every=2, epochs=2, **settings):
    """Fit with the callback for some epochs of eight batches; return what it did."""
    model, callback = image_network("sgd"), None
    callback = for_keras.PruneWhileTraining(
        ranked("magnitude", linear(by=1)), ["out"], every, total, finish=settings.pop("finish", 1.0)
    )
    model.fit(IMAGES, CLASSES, batch_size=8, epochs=epochs, verbose=0, callbacks=[callback],
              **settings)  # fmt: skip
    return callback.updates, callback.events, callback.cadence.proposals


def test_keras_total_and_finish_end_the_proposals_and_epochs_are_counted():
    assert proposals(total=4) == (16, 2, 2)
    assert proposals(finish=0.5) == (16, 4, 4)
    assert proposals(every="1 epoch") == (16, 2, 2)
    assert proposals(every="1 epoch", total="1 epoch") == (16, 1, 1)
    assert proposals(epochs=12, initial_epoch=10) == (16, 8, 8)
    for settings, message in (
        ({"every": 0}, "number of updates from 1"),
        ({"every": 10, "total": 5}, "nothing would ever be pruned"),
        ({"finish": 0.0}, "finish="),
    ):
        with pytest.raises(ScheduleError, match=message):
            proposals(**settings)
    with pytest.raises(TypeError, match=r"`every` must be a whole number or a text; got 2.5"):
        proposals(every=2.5)


def test_keras_goes_on_with_a_model_and_starts_anew_with_another():
    callback = for_keras.PruneWhileTraining(ranked("magnitude", linear("50 %")), ["out"], every=4)
    model = image_network()
    fit(model, callback)
    assert callback.cadence.proposals == 4
    fit(model, callback, epochs=1)
    assert (callback.updates, callback.cadence.proposals) == (24, 6)
    assert (model.get_layer("out").kernel.numpy() == 0).sum() == 12
    fresh = image_network()
    fit(fresh, callback, epochs=1)
    assert (callback.updates, callback.events) == (8, 2)
    keras.backend.clear_session()
    callback.every = 8
    fresh = image_network()
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(
            int((fresh.get_layer("out").kernel.numpy() == 0).sum())
        )
    )
    fresh.fit(IMAGES, CLASSES, batch_size=8, verbose=0, callbacks=[callback, watch])
    assert seen[:7] == [0] * 7


def test_keras_goes_on_from_a_state(tmp_path):
    def make():
        return for_keras.PruneWhileTraining(
            ranked("magnitude", linear("40 %"), within="group"), ["hidden", "out"], every=4
        )

    whole, straight = image_network("adam"), make()
    whole.fit(IMAGES, CLASSES, batch_size=8, epochs=4, shuffle=False, verbose=0,
              callbacks=[straight])  # fmt: skip
    model, first = image_network("adam"), make()
    first.total = 32
    model.fit(IMAGES, CLASSES, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[first])
    model.save(tmp_path / "model.keras")
    torch.save(first.state_dict(), tmp_path / "anneal.pt")
    again, callback = keras.saving.load_model(tmp_path / "model.keras"), make()
    callback.load_state_dict(torch.load(tmp_path / "anneal.pt"))
    assert callback.state_dict()["updates"] == 16
    again.fit(IMAGES, CLASSES, batch_size=8, initial_epoch=2, epochs=4, shuffle=False, verbose=0,
              callbacks=[callback])  # fmt: skip
    assert (callback.updates, callback.events, callback.cadence.proposals) == (32, 8, 8)
    assert callback.mask == straight.mask
    assert np.array_equal(again.predict(IMAGES, verbose=0), whole.predict(IMAGES, verbose=0))
    other = for_keras.PruneWhileTraining(callback.propose, ["conv"], every=4)
    other.load_state_dict(callback.state_dict())
    with pytest.raises(ValueError, match="belongs to other groups"):
        fit(image_network(), other)


def test_keras_counts_the_optimizer_s_updates():
    model = image_network(keras.optimizers.SGD(gradient_accumulation_steps=4))
    callback = for_keras.PruneWhileTraining(ranked("magnitude", linear(by=1)), ["out"], every=2)
    fit(model, callback)
    assert (callback.updates, callback.events, callback.cadence.proposals) == (4, 2, 2)
    model.steps_per_execution = 4  # torch's backend refuses it by itself
    with pytest.raises(StructureError, match="steps_per_execution=1, not 4"):
        callback.on_train_begin()


def chain(*between, shape=(6, 6, 2)):
    """Build a model of these layers and a dense layer, "out", after them."""
    model = keras.Sequential([keras.Input(shape), *between, keras.layers.Flatten(),
                              keras.layers.Dense(3, activation="softmax", name="out")])  # fmt: skip
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def begin(model, layers=None, units=False, propose=None):
    """Return the callback after the beginning of a training of this model."""
    propose = propose or ranked("magnitude", linear(by=1))
    callback = for_keras.PruneWhileTraining(propose, layers, units=units)
    callback.set_model(model)
    callback.on_train_begin()
    return callback


def test_keras_units_are_only_followed_where_they_are_known():
    layers = keras.layers
    turned = layers.Conv2DTranspose(4, 3, name="turned")
    thin = layers.DepthwiseConv2D(3, name="thin")
    for model, names, message in (
        (chain(turned), None, "'turned' is a Conv2DTranspose"),
        (chain(thin), ["thin"], "'thin' is a DepthwiseConv2D"),
        (
            chain(layers.Conv2D(2, 3, name="conv"), layers.DepthwiseConv2D(3)),
            ["conv"],
            "stands between",
        ),
        (image_network(), ["out"], "they are the outputs"),
        (image_network(), [], "nothing to prune"),
        (chain(), None, "nothing to prune"),
    ):
        with pytest.raises(StructureError, match=message):
            begin(model, names, units=True)
    assert [group.name for group in begin(image_network(), units=True).groups] == ["conv", "hidden"]
    assert begin(chain(thin), ["thin"]).groups[0].size == 18
    with pytest.raises(StructureError, match="nothing to prune"):
        begin(image_network(), [])


def test_keras_leaves_frozen_layers_alone():
    model = image_network()
    model.get_layer("hidden").trainable = False
    assert [group.name for group in begin(model).groups] == ["conv", "out"]
    assert not any(group.name == "conv" for group in begin(model, ["out"]).groups)
    with pytest.raises(StructureError, match="'hidden' is frozen"):
        begin(model, ["hidden"])
    with pytest.raises(StructureError, match="'conv' can be zeroed, since 'hidden' is frozen"):
        begin(model, ["conv"], units=True)
    tuned = image_network()
    tuned.get_layer("hidden").enable_lora(2)
    with pytest.raises(StructureError, match="before enable_lora"):
        begin(tuned)
    assert begin(tuned, ["out"]).groups


def test_keras_finds_layers_of_any_name_and_within_other_models():
    dense = keras.layers.Dense
    inner = keras.Sequential([keras.Input((4,)), dense(4, name="half"), dense(4, name="in")])
    model = keras.Sequential(
        [keras.Input((4,)), inner, dense(4, name="wide"), dense(3, name="out")]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callback = for_keras.PruneWhileTraining(
        ranked("magnitude", linear(by="25 %"), within="group"), every=4
    )
    model.fit(ROWS, CLASSES, batch_size=8, verbose=0, callbacks=[callback])
    assert [group.name for group in callback.groups] == ["half", "in", "wide", "out"]
    for layer in (*inner.layers, *model.layers[1:]):
        assert (layer.kernel.numpy() == 0).sum() == layer.kernel.numpy().size // 2
    assert begin(model, ["half"]).groups[0].size == 16
    with pytest.raises(StructureError, match="of a model inside it"):
        begin(model, ["in"], units=True)
    with pytest.raises(StructureError, match="'lstm', a LSTM, has kernels inside it"):
        begin(chain(keras.layers.LSTM(2, name="lstm"), shape=(5, 2)))


def test_keras_refuses_criteria_that_measure_before_anything_changes():
    for propose, message in (
        (ranked("ablation", linear(by=1)), "choose one that reads weights only"),
        (ranked("weight_change", linear(by=1)), "rajectory"),
        (ranked("magnitude", linear(by=1), repair="mean"), "leave repair= out"),
        (only("neuron", ranked("taylor1", linear(by=1))), "reads weights only"),
    ):
        with pytest.raises(CriterionError, match=message):
            begin(image_network(), units=True, propose=propose)
    begin(image_network(), propose=ranked("random", linear(by=1)))
    begin(image_network(), propose=lambda probe, groups, mask, progress: None)


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


def trainer(folder, callback, epochs=2, **settings):
    return pl.Trainer(
        max_epochs=epochs, callbacks=[callback], accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, **settings,
    )  # fmt: skip


def train(folder, module, callback, epochs=2, ckpt=None, data=None, **settings):
    owner = trainer(folder, callback, epochs, **settings)
    owner.fit(module, loader() if data is None else data, ckpt_path=ckpt)
    return owner


def shrinking(propose=None, groups=None, **settings):
    return for_lightning.PruneWhileTraining(
        propose or ranked("magnitude", linear(by=2)), groups or units_of, "1 epoch", **settings
    )


def units_of(module):
    return find_units(module, torch.zeros(2, 6))


def same_bits(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def by_fifths(**settings):
    return for_lightning.PruneWhileTraining(
        ranked("magnitude", geometric(by="20 %")), every="1 epoch", **settings
    )


def alive(callback):
    return sum(callback.pruner.mask.count(group) for group in callback.pruner.groups)


@pytest.mark.filterwarnings("ignore")
def test_lightning_goes_on_from_a_checkpoint_bit_by_bit(tmp_path):
    module, callback = Module(), by_fifths()
    first = train(tmp_path, module, callback)
    assert (callback.pruner.updates, callback.pruner.events) == (16, 2)
    assert sum(int((p == 0).sum()) for p in module.parameters() if p.ndim > 1) == 80 - 51
    first.save_checkpoint(tmp_path / "kept.ckpt")
    again, resumed = Module(), by_fifths()
    train(tmp_path, again, resumed, epochs=4, ckpt=tmp_path / "kept.ckpt")
    assert (resumed.pruner.updates, resumed.pruner.events) == (32, 4)
    assert alive(resumed) == round(80 * 0.8**4)
    whole, at_once = Module(), by_fifths()
    train(tmp_path, whole, at_once, epochs=4)
    assert same_bits(whole, again)
    assert at_once.pruner.mask == resumed.pruner.mask
    train(tmp_path, module, callback, epochs=3)  # beyond the checkpoint, and back to it
    train(tmp_path, module, callback, epochs=4, ckpt=tmp_path / "kept.ckpt")
    assert same_bits(module, whole)
    fresh = Module()  # what was read from the checkpoint says nothing of another module
    train(tmp_path, fresh, resumed)
    train(tmp_path, other := Module(), by_fifths())
    assert same_bits(fresh, other)
    assert (resumed.pruner.updates, alive(resumed)) == (16, 51)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("delete", [False, True])
def test_a_second_lightning_fit_goes_on_where_the_first_has_ended(tmp_path, delete):
    module, callback = Module(), shrinking(delete=delete, example=torch.zeros(2, 6))
    owner = train(tmp_path, module, callback)
    assert (callback.pruner.updates, alive(callback)) == (16, 6)
    owner.fit_loop.max_epochs = 3
    owner.fit(module, loader())
    assert (callback.pruner.updates, alive(callback)) == (24, 4)
    whole, at_once = Module(), shrinking(delete=delete, example=torch.zeros(2, 6))
    train(tmp_path, whole, at_once, epochs=3)
    assert module.net[0].weight.shape == whole.net[0].weight.shape == ((4 if delete else 10), 6)
    assert at_once.pruner.mask == callback.pruner.mask
    train(tmp_path, module, callback, epochs=1)  # by another Trainer, which counts anew
    assert (callback.pruner.updates, alive(callback)) == (32, 2)


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_that_was_only_looked_at_cuts_no_other_module(tmp_path):
    module, callback = Module(), by_fifths()
    train(tmp_path, module, callback).save_checkpoint(tmp_path / "kept.ckpt")
    seen, reader = Module(), by_fifths()
    owner = trainer(tmp_path, reader)
    owner.predict(
        seen, torch.utils.data.DataLoader(torch.zeros(4, 6)), ckpt_path=str(tmp_path / "kept.ckpt")
    )
    fresh = Module()
    train(tmp_path, fresh, reader, epochs=1)
    assert alive(reader) == 64
    owner = trainer(tmp_path, reader := by_fifths())
    owner.predict(
        seen, torch.utils.data.DataLoader(torch.zeros(4, 6)), ckpt_path=str(tmp_path / "kept.ckpt")
    )
    train(tmp_path, seen, reader, epochs=1)  # but it does go on in its own
    assert (reader.pruner.updates, alive(reader)) == (24, round(80 * 0.8**3))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("settings", "every", "total"),
    [
        ({"epochs": None, "max_steps": 24}, 16, 24),
        ({"epochs": 10, "max_steps": 24}, 16, 24),
        ({"epochs": -1, "max_steps": 24}, 16, 24),
        ({"epochs": 3}, 16, 24),
        ({"epochs": 4, "accumulate_grad_batches": 3}, 6, 12),  # 3 + 3 + 2 batches
        ({"epochs": -1, "max_time": {"seconds": 1}}, 16, float("inf")),
    ],
)
def test_lightning_counts_epochs_in_updates(tmp_path, settings, every, total):
    callback = for_lightning.PruneWhileTraining(ranked("magnitude", linear(by=1)), every="2 epochs")
    owner = trainer(tmp_path, callback, **settings)
    if "max_time" in settings:
        owner.callbacks.append(StopsAtOnce())
    owner.fit(Module(), loader())
    assert (callback.pruner.cadence.every, callback.pruner.cadence.last) == (every, total)


class StopsAtOnce(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = True


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(loader().dataset)


@pytest.mark.filterwarnings("ignore")
def test_lightning_data_without_a_length_have_no_total(tmp_path):
    endless = torch.utils.data.DataLoader(Endless(), batch_size=8)
    callback = for_lightning.PruneWhileTraining(ranked("magnitude", linear(by=1)), every=4)
    train(tmp_path, Module(), callback, data=endless)
    assert (callback.pruner.cadence.last, callback.pruner.events) == (float("inf"), 4)
    with pytest.raises(ScheduleError, match="give steps_per_epoch="):
        train(tmp_path, Module(), by_fifths(), data=endless)
    train(tmp_path, Module(), callback := by_fifths(steps_per_epoch=8), data=endless)
    assert callback.pruner.events == 2


@pytest.mark.filterwarnings("ignore")
def test_lightning_shows_its_batches_to_criteria_that_measure(tmp_path):
    module = Module()
    callback = for_lightning.PruneWhileTraining(ranked("ablation", linear(by=2)), units_of, every=8)
    train(tmp_path, module, callback)
    (units,) = callback.pruner.groups
    dead = callback.pruner.mask.dead(units)
    assert len(dead) == 4
    assert not module.net[2].weight[:, dead].any()


class Regression(Module):
    def training_step(self, batch, _):
        return nn.functional.mse_loss(self(batch[0]), batch[1])


def numbers():
    x = loader().dataset.tensors[0]
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x[:, :2]), batch_size=8)


@pytest.mark.filterwarnings("ignore")
def test_lightning_measures_the_loss_that_it_is_told(tmp_path):
    def fit(criterion, **settings):
        callback = shrinking(ranked(criterion, linear(by=2)), **settings)
        train(tmp_path, Regression(), callback, data=numbers())
        return callback.pruner.mask

    with pytest.raises(LossError, match=r'cross_entropy, taken where .* loss="half_squared_error"'):
        fit("ablation")
    fit("magnitude")  # asks for no loss, so needs none said
    told = fit("ablation", loss="half_squared_error")
    assert told == fit("ablation", loss=lambda y, t: (y - t).square().sum(1))
    with pytest.raises(LossError, match="probabilities that sum to 1"):
        fit("ablation", loss="cross_entropy")
    with pytest.raises(ValueError, match="half_squared_error"):
        shrinking(loss="half_square_error")


@pytest.mark.filterwarnings("ignore")
def test_an_interrupted_lightning_fit_leaves_nothing_behind_and_can_go_on(tmp_path):
    module, callback = Module(), shrinking(delete=True, example=torch.zeros(2, 6))
    owner = trainer(tmp_path, callback)
    owner.callbacks.append(Stumbles())
    with pytest.raises(OSError, match="stumbled"):
        owner.fit(module, loader())
    assert (callback.pruner.updates, alive(callback)) == (8, 8)
    assert not module.net[0].weight._post_accumulate_grad_hooks
    assert not module._load_state_dict_pre_hooks
    train(tmp_path, module, callback, epochs=1)
    assert (callback.pruner.updates, alive(callback)) == (16, 6)


class Stumbles(pl.Callback):
    def on_train_epoch_end(self, *_):
        raise OSError("stumbled")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("groups", "part"), [(units_of, "15 %"), (find_synapses, "35 %")])
def test_a_lightning_module_that_became_smaller_goes_on_by_way_of_its_file(tmp_path, groups, part):
    def make():
        fall = ranked("magnitude", geometric(by=part))
        return shrinking(fall, groups, delete=True, example=torch.zeros(2, 6))

    module = Module()
    owner = train(tmp_path, module, make(), 5)
    assert module.net[2].weight.shape[1] < 10
    owner.save_checkpoint(tmp_path / "kept.ckpt")
    save(module, tmp_path / "kept.safetensors")
    fresh, callback = Module(), make()
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    with pytest.raises(StructureError, match=r"in the checkpoint and .* sentei\.load\(file, into="):
        train(tmp_path, fresh, callback, 7, tmp_path / "kept.ckpt")
    assert all(torch.equal(before[name], own) for name, own in fresh.state_dict().items())
    assert not fresh._load_state_dict_pre_hooks
    small = load(tmp_path / "kept.safetensors", into=fresh)
    train(tmp_path, small, callback, 7, tmp_path / "kept.ckpt")
    train(tmp_path, whole := Module(), make(), 7)
    assert whole.net[2].weight.shape[1] < module.net[2].weight.shape[1]
    assert same_bits(small, whole)


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
    mask, right = example("annealing_keras").main(epochs=1, images=96, batch=16, every=2)
    gone = {group.name: len(mask.dead(group)) for group in mask.groups}
    assert gone == {"hidden": 3 * (4608 * 128 // 200), "digits": 3 * (1280 // 200)}
    assert 0 <= right <= 1
    mask, right = example("annealing_lightning").main(epochs=2)
    assert sum(mask.count(group) for group in mask.groups) == round((16 * 128 + 128 * 26) / 5)
    assert right > 0.5
