"""A network in shards is refused by every public function that takes a network, in one sentence."""

import inspect

import pytest
import torch
from torch import nn

import hand
import sentei
from good_calls import World, fill, good_call, public

# These read no weight: they tell or note facts of a network, or put it or its parameters elsewhere.
READ_NOTHING = {"card_of", "set_card_", "training.takes_flat"}
READ_NOTHING |= {"Standardise.before", "Recipe.optimizer_for"}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    """A group of one process, and its devices."""
    from torch.distributed.device_mesh import init_device_mesh

    meeting = tmp_path_factory.mktemp("shards") / "meeting"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=0, world_size=1
    )
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def in_shards(mesh):
    from torch.distributed.fsdp import fully_shard

    return fully_shard(hand.mlp(4, 6, 3), mesh=mesh)


def with_flat_parameters(mesh):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(hand.mlp(4, 6, 3), device_id=torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("files")
    fill(path)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [in_shards, with_flat_parameters])
def test_every_door_refuses_shards(make, mesh, folder):
    world, sharded, found = World(folder), make(mesh), {}
    for name in sorted(public().keys() - READ_NOTHING):
        call = good_call(name, world)
        for argument, value in call.arguments.items():
            if isinstance(value, nn.Module) and not isinstance(value, sentei.Standardise):
                found[name, argument] = refusal(call.but(argument, sharded))
    assert len(found) > 25
    said = "in shards", "TypeError: initialise_: `network` must be an nn.Sequential"
    assert {each: found[each] for each in found if not found[each].startswith(said)} == {}


def refusal(call):
    """Return what a call raises, from the words that are looked for on."""
    try:
        made = call()
        if inspect.isgenerator(made):
            next(made)
    except sentei.errors.PruningError as error:
        return str(error)[str(error).find("in shards") :]
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
