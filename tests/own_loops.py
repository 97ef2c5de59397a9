"""Training loops as users write them: one row for each, of what is attached, stepped and saved."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

_random = torch.Generator().manual_seed(5)
X = torch.randn(48, 12, generator=_random, dtype=torch.float64)
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long()


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 2)
    ).double()


@dataclass
class Loop:
    """What a user has in a loop: an update, what is attached, and what a checkpoint holds."""

    update: Callable[[int], object]
    attached: Any
    saved: list[Any] = field(default_factory=list)
    companions: list[Any] = field(default_factory=list)
    finish: Callable[[], object] = lambda: None

    def run(self, first, last):
        for number in range(first, last):
            self.update(number)

    def parts(self):
        optimizers = self.attached if isinstance(self.attached, list) else [self.attached]
        return [*optimizers, *self.saved]


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation in two steps; the base optimizer moves the weights."""

    def __init__(self, params, base, rho=0.05, **settings):
        super().__init__(params, {"rho": rho, **settings})
        self.base_optimizer = base(self.param_groups, **settings)
        self.param_groups = self.base_optimizer.param_groups

    def _all(self):
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]

    @torch.no_grad()
    def first_step(self):
        norm = torch.stack([p.grad.norm() for p in self._all()]).norm()
        for p in self._all():
            self.state[p]["old_p"] = p.data.clone()
            p.add_(p.grad * (self.param_groups[0]["rho"] / (norm + 1e-12)))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for p in self._all():
            p.data = self.state[p]["old_p"]
        self.base_optimizer.step()
        self.zero_grad()

    def step(self, closure=None) -> Any:
        closure = torch.enable_grad()(closure)
        closure()
        self.first_step()
        loss = closure()
        self.second_step()
        return loss


class Lookahead(torch.optim.Optimizer):
    """Every third step the weights move half way from the slow weights to the fast ones."""

    def __init__(self, inner, held="own"):
        if held == "own":
            super().__init__(inner.param_groups, {})
        else:  # as in timm: the constructor of torch is not called
            self._optimizer_step_pre_hooks = OrderedDict()
            self._optimizer_step_post_hooks = OrderedDict()
            self.state, self.defaults = inner.state, inner.defaults
        self.inner, self.param_groups, self.calls = inner, inner.param_groups, 0

    def step(self, closure=None) -> Any:
        loss = self.inner.step(closure)
        self.calls += 1
        with torch.no_grad():
            for p in (p for group in self.param_groups for p in group["params"]):
                slow = self.state[p].setdefault("slow", p.detach().clone())
                if self.calls % 3 == 0:
                    p.copy_(slow.add_(p - slow, alpha=0.5))
        return loss

    def state_dict(self):
        slow = [self.state[p]["slow"] for group in self.param_groups for p in group["params"]]
        return {"inner": self.inner.state_dict(), "slow": slow, "calls": self.calls}

    def load_state_dict(self, state_dict):
        self.inner.load_state_dict(state_dict["inner"])
        every = [p for group in self.param_groups for p in group["params"]]
        for p, slow in zip(every, state_dict["slow"]):
            self.state[p]["slow"] = slow.clone()
        self.calls = state_dict["calls"]


class Cautious(torch.optim.Adam):
    """An Adam that leaves out what the gradient contradicts, and scales up by how many stay."""

    def step(self, closure=None):
        every = [p for group in self.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in every]
        super().step(closure)
        with torch.no_grad():
            for p, old in zip(every, before):
                agrees = ((p - old) * p.grad < 0).to(p.dtype)
                p.copy_(old + (p - old) * agrees * (agrees.numel() / (agrees.sum() + 1)))


def _backward(model, number, part=slice(None)):
    rows = torch.arange(48).roll(7 * number)[part]
    cross_entropy(model(X[rows]), Y[rows]).backward()


def plain(optimizer, model, **more):
    def update(number):
        optimizer.zero_grad()
        _backward(model, number)
        optimizer.step()

    return Loop(update, optimizer, **more)


def adam(model, **settings):
    return torch.optim.Adam(model.parameters(), lr=0.02, **settings)


def two_optimizers(model):
    first = torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9)
    second = torch.optim.AdamW(model[1:].parameters(), lr=0.02)

    def update(number):
        model.zero_grad()
        _backward(model, number)
        first.step()
        second.step()

    return Loop(update, [first, second])


def muon(model):
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    first = torch.optim.Muon(matrices, lr=0.02)  # pyright: ignore[reportAttributeAccessIssue]
    second = torch.optim.AdamW(rest, lr=0.02)

    def update(number):
        model.zero_grad()
        _backward(model, number)
        first.step()
        second.step()

    return Loop(update, [first, second])


def sam_in_two_steps(model, attached=lambda sam: sam):
    sam = SAM(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)

    def update(number):
        _backward(model, number)
        sam.first_step()
        _backward(model, number)
        sam.second_step()

    return Loop(update, attached(sam), [sam.base_optimizer])


def sam_by_closure(model):
    sam = SAM(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    return Loop(lambda n: sam.step(lambda: _backward(model, n)), sam, [sam.base_optimizer])


def lookahead(model, held="own"):
    return plain(Lookahead(adam(model), held), model)


def ema_by_hand(model):
    average = copy.deepcopy(model)
    loop = plain(adam(model), model, saved=[average], companions=[average])
    step = loop.update

    def update(number):
        step(number)
        with torch.no_grad():
            for own, new in zip(average.parameters(), model.parameters()):
                own.lerp_(new, 0.1)

    loop.update = update
    return loop


def averaged(model, **settings):
    average = AveragedModel(model, **settings)
    loop = plain(adam(model), model, saved=[average], companions=[average])
    step = loop.update

    def update(number):
        step(number)
        if number >= 3:
            average.update_parameters(model)

    loop.update = update
    return loop


def accumulated(model):
    optimizer = adam(model)

    def update(number):
        optimizer.zero_grad()
        for part in range(3):
            _backward(model, number, slice(part, None, 3))
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()

    return Loop(update, optimizer)


def scaled(model):
    optimizer = adam(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)  # pyright: ignore

    def update(number):
        optimizer.zero_grad()
        rows = torch.arange(48).roll(7 * number)
        with torch.autocast("cpu", torch.bfloat16):  # float64 stays float64
            loss = cross_entropy(model(X[rows]), Y[rows])
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        scaler.step(optimizer)
        scaler.update()

    return Loop(update, optimizer, [scaler])


def schedule_free(model):
    import schedulefree

    optimizer = schedulefree.AdamWScheduleFree(model.parameters(), lr=0.02)
    optimizer.train()
    return plain(optimizer, model, finish=optimizer.eval)


def accelerated(model):
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    prepared, optimizer = accelerator.prepare(model, adam(model))

    def update(number):
        for part in range(2):
            with accelerator.accumulate(prepared):
                rows = torch.arange(48).roll(7 * number)[part::2]
                accelerator.backward(cross_entropy(prepared(X[rows]), Y[rows]))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(prepared.parameters(), 0.05)
                optimizer.step()
                optimizer.zero_grad()

    return Loop(update, optimizer)


def compiled(model):
    fast = torch.compile(model, backend="aot_eager")
    return plain(adam(model), fast)


@dataclass(frozen=True)
class Row:
    """A loop, and whether its masked training is that of the smaller network."""

    make: Callable[[nn.Module], Loop]
    equal: bool = True


LOOPS = {
    "two optimizers": Row(two_optimizers),
    "SAM, two steps": Row(sam_in_two_steps),
    "SAM, the inner optimizer attached": Row(
        lambda model: sam_in_two_steps(model, lambda sam: sam.base_optimizer)
    ),
    "SAM, closure": Row(sam_by_closure),
    "Lookahead": Row(lookahead),
    "Lookahead, its state in the inner optimizer": Row(lambda model: lookahead(model, "inner")),
    "EMA by hand": Row(ema_by_hand),
    "EMA": Row(lambda model: averaged(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))),
    "SWA": Row(averaged),
    "accumulated and clipped": Row(accumulated),
    "scaled, autocast": Row(scaled),
    "cautious": Row(lambda m: plain(Cautious(m.parameters(), lr=0.02), m), equal=False),
    "schedule-free": Row(schedule_free),
    "accelerate": Row(accelerated),
    "compiled": Row(compiled),
    **({"Muon beside AdamW": Row(muon, equal=False)} if hasattr(torch.optim, "Muon") else {}),
}
