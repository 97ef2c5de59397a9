"""The questions of the study, answered from its results: a claim for each."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from sentei.criteria.agreement import spearman
from sentei.papers.claims import Claim, Verdict, paired
from sentei.papers.study.ranks import average_ranks, critical_difference, friedman
from sentei.papers.study.reading import (
    LEAST_LOSS,
    LEAST_SQUARES,
    NEW,
    NONE,
    PRUNED_WHILE_TRAINED,
    REPAIRED_WHILE_TRAINED,
    WAYS,
    Network,
    Study,
    Way,
)
from sentei.papers.study.ways import ITERATIVE, ONE_SHOT, UNITS

ASKED = "not known"
PLAIN, REPAIRED = Way(ITERATIVE), Way(ITERATIVE, LEAST_SQUARES)
RETRAINED, BOTH = Way(ITERATIVE, NONE, True), Way(ITERATIVE, LEAST_SQUARES, True)
BEST = "best of the other tasks"  # the criterion that is best on all tasks but the network's own


def judged(study: Study) -> list[Claim]:
    """Return a claim for each question; those whose runs are missing are left out."""
    questions = (_choice, _differences, _ranking, _agreement, _scratch)
    claims = [claim for question in questions for claim in question(study)]
    if study.members == UNITS:
        return claims
    return [replace(claim, claim=f"single {study.members}: {claim.claim}") for claim in claims]


class Side(NamedTuple):
    """One of two things that are compared: a way to prune, and what chooses the units."""

    way: Way
    criterion: str = BEST

    def __str__(self) -> str:
        return f"{self.criterion} ({self.way})" if self.criterion else str(self.way)

    def measured(self, study: Study) -> list[Network]:
        """Return the networks that have it."""
        found = study.measured(self.way)
        if self.criterion == BEST:
            return found
        return [n for n in found if study.quality(self.way, n, self.criterion) is not None]

    def qualities(self, study: Study, networks: Sequence[Network]) -> list[float]:
        """Return the quality of each of these networks."""
        if self.criterion == BEST:
            return study.transferred(self.way, networks)
        found = [study.quality(self.way, network, self.criterion) for network in networks]
        return [quality for quality in found if quality is not None]


def _compared(study: Study, claim: str, one: Side, other: Side) -> Claim | None:
    """Compare two ways on all networks that have both; it holds if one is better, p below 0.05."""
    both = set(other.measured(study))
    networks = [network for network in one.measured(study) if network in both]
    if not networks:
        return None
    mine, theirs = (side.qualities(study, networks) for side in (one, other))
    told = paired(mine, theirs)
    sure = told.p < 0.05
    verdict: Verdict = "cannot be judged" if not sure else "holds"
    if sure and told.mean < 0:
        verdict = "does not hold"
    means = f"{100 * statistics.fmean(mine):.1f} against {100 * statistics.fmean(theirs):.1f}"
    tasks = len({network.task for network in networks})
    remark = f"{one} against {other}: {means}; {tasks} task{'s' * (tasks > 1)}"
    return Claim(claim, ASKED, told.words(2, 100, "points"), verdict, remark)


def _choice(study: Study) -> Iterator[Claim]:
    """Yield whether it matters which criterion chooses, with repair and retraining or without."""
    trained = (PRUNED_WHILE_TRAINED, REPAIRED_WHILE_TRAINED)
    for rival, words in (("random", f"random {study.members}"), ("magnitude", "magnitude")):
        for way in (PLAIN, REPAIRED, RETRAINED, BOTH, *trained):
            claim = f"a good criterion is better than {words}: {way}"
            found = _compared(study, claim, Side(way), Side(way, rival))
            if found is not None:
                yield found


def _differences(study: Study) -> Iterator[Claim]:
    pairs = {
        "repair by least squares helps": (Side(REPAIRED), Side(PLAIN)),
        "repair is worth more than the choice of the criterion": (
            Side(REPAIRED, "random"),
            Side(PLAIN),
        ),
        "repair is worth more than ten updates of retraining after each cut": (
            Side(REPAIRED),
            Side(RETRAINED),
        ),
        "repair helps where the network is retrained, too": (Side(BOTH), Side(RETRAINED)),
        "a mix fitted to the loss is better than least squares": (
            Side(Way(ITERATIVE, LEAST_LOSS)),
            Side(REPAIRED),
        ),
        "the same, retrained": (Side(Way(ITERATIVE, LEAST_LOSS, True)), Side(BOTH)),
        "scores computed anew after each cut are better than one ranking": (
            Side(PLAIN),
            Side(Way(ONE_SHOT)),
        ),
        "the same, repaired": (Side(REPAIRED), Side(Way(ONE_SHOT, LEAST_SQUARES))),
        "the same, repaired, and retrained by as many updates": (
            Side(BOTH),
            Side(Way(ONE_SHOT, LEAST_SQUARES, True)),
        ),
        "removing units while the network trains is better than afterwards": (
            Side(PRUNED_WHILE_TRAINED),
            Side(BOTH),
        ),
        "least squares helps where units go while the network trains": (
            Side(REPAIRED_WHILE_TRAINED),
            Side(PRUNED_WHILE_TRAINED),
        ),
        "exact ablation is better than magnitude": (
            Side(PLAIN, "ablation"),
            Side(PLAIN, "magnitude"),
        ),
        "the same, repaired (ablation as it is)": (
            Side(REPAIRED, "ablation"),
            Side(REPAIRED, "magnitude"),
        ),
        "ablation measured after least squares is better where least squares repairs": (
            Side(REPAIRED, "ablation-least-squares"),
            Side(REPAIRED, "ablation"),
        ),
        "ablation measured after a fit by one other unit is better where least squares repairs": (
            Side(REPAIRED, "ablation-affine"),
            Side(REPAIRED, "ablation"),
        ),
        "the same, retrained as well": (Side(BOTH, "ablation-affine"), Side(BOTH, "ablation")),
        "the same, where units go while the network trains": (
            Side(PRUNED_WHILE_TRAINED, "ablation-affine"),
            Side(PRUNED_WHILE_TRAINED, "ablation"),
        ),
    }
    for claim, sides in pairs.items():
        found = _compared(study, claim, *sides)
        if found is not None:
            yield found


def _ranking(study: Study) -> Iterator[Claim]:
    """Yield the criteria of the best average rank for each way, and how many are not told apart."""
    for way in (*WAYS, PRUNED_WHILE_TRAINED, REPAIRED_WHILE_TRAINED):
        names, networks, qualities = study.qualities(way)
        if not networks:
            continue
        ranks = average_ranks(qualities)
        width = critical_difference(len(names), len(networks))
        order = ranks.argsort(stable=True).tolist()
        level = [names[i] for i in order if ranks[i] - ranks[order[0]] < width]
        random = ranks[names.index("random")] - ranks[order[0]]
        yield Claim(
            f"one criterion is the best of all: {way}",
            ASKED,
            ", ".join(f"{names[i]} {ranks[i]:.1f}" for i in order[:3]),
            "holds" if len(level) == 1 else "does not hold",
            f"average ranks of {len(names)} criteria on {len(networks)} networks, critical "
            f"difference {width:.1f}: {len(level)} are not told from the first, "
            f"{'nor is' if random < width else 'but'} random"
            + (f" is {random:.1f} behind" if random >= width else "")
            + f"; Friedman's test p {_p(friedman(ranks, len(networks)))}",
        )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _agreement(study: Study) -> Iterator[Claim]:
    """Yield whether criteria that rank units as exact ablation does prune better."""
    names, networks, plain = study.qualities(PLAIN)
    _, repairable, repaired = study.qualities(REPAIRED)
    if not repairable:
        return
    agreement = torch.tensor(
        [statistics.fmean(study.scoring[n, name][1] for n in networks) for name in names]
    )
    without, with_repair = (spearman(agreement, table.mean(0)) for table in (plain, repaired))
    yield Claim(
        "criteria that rank as exact ablation does prune better",
        ASKED,
        f"Spearman {without:+.2f} without repair, {with_repair:+.2f} with least squares",
        "holds" if without > 0.5 and with_repair > 0.5 else "holds in part",
        f"over {len(names)} criteria: agreement of the first scores, and mean quality",
    )


def _scratch(study: Study) -> Iterator[Claim]:
    """Yield whether pruned networks are better than new networks of the same sizes."""
    trained = (PRUNED_WHILE_TRAINED, REPAIRED_WHILE_TRAINED)
    for way in (RETRAINED, REPAIRED, BOTH, *trained):
        found = _compared(
            study,
            f"a pruned network is better than a new one of its size: {way}",
            Side(way),
            Side(NEW, ""),
        )
        if found is not None:
            yield found
