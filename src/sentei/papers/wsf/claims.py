"""Judge the claims of the wsf paper by the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sentei.jobs.results import Result
from sentei.papers.claims import Claim, Verdict, paired, spread
from sentei.papers.wsf import small
from sentei.papers.wsf.figures import smallest

Results = Mapping[str, Result]
SURE = 0.05  # p-value below which a difference counts as real
GOALS = (0.97, 0.95, 0.90)


def judged(results: Results, quick: bool) -> list[Claim]:
    """Return every claim that there are results for."""
    makers = (
        _size,
        _best,
        _close,
        _half,
        _few,
        _letter,
        _movement,
        _ranking,
        _compared,
        _zero,
        _rules,
        _lists,
    )
    rows = [claim for make in makers for claim in make(results)]
    rows += [fewest(_of(results, "ladder"), goal) for goal in GOALS if _of(results, "ladder")]
    rows += [fewest(_of(results, "few-"), 0.5)] if _of(results, "few-") else []
    return rows + attempts(results, quick) + activations(results)


def _of(results: Results, start: str) -> list[Result]:
    """Return the results of jobs whose names start with `start`, ordered by name."""
    return [result for name, result in sorted(results.items()) if name.startswith(start)]


def _size(results: Results) -> list[Claim]:
    """Claim: a fully connected [784,20,10] has 15,880 synapses."""
    runs = _of(results, "hypothesis")
    if not runs:
        return []
    total = sum(runs[0]["histogram"])
    return [
        Claim(
            "a fully connected [784,20,10] has 15,880 synapses",
            "15 880",
            f"{total:,.0f}",
            "holds" if total == 15_880 else "does not hold",
            "biases are not counted; dense test accuracy "
            + spread([run["test"] for run in runs], 2, 100, "%"),
        )
    ]


def _best(results: Results) -> list[Claim]:
    """Claim: 1,259 synapses are enough for 97 %."""
    if "together" not in results:
        return []
    runs = results["together"]["runs"]
    tests = [run["test"] for run in runs]
    return [
        Claim(
            "1,259 synapses are enough for 97 %, as [465,20,10]",
            "97 % (of which data is not said)",
            "test " + spread(tests, 2, 100, "%"),
            "holds" if sum(tests) / len(tests) >= 0.97 else "does not hold",
            "with regrowth, distorted images and a teacher, beyond the paper; train "
            + spread([run["train"] for run in runs], 2, 100, "%")
            + f", validation {spread([run['validation'] for run in runs], 2, 100, '%')}; test "
            + f"{min(tests):.2%} to {max(tests):.2%}; "
            + f"{spread([run['structure'][0] for run in runs], 0)} inputs",
        )
    ]


def _close(results: Results) -> list[Claim]:
    """Claim: over 90 % of synapses are redundant on MNIST."""
    runs = _of(results, "process-close")
    if not runs:
        return []
    synapses = [run["synapses"] for run in runs]
    return [
        Claim(
            "over 90 % of synapses are redundant (MNIST)",
            "> 90 %",
            spread([1 - count / 15_880 for count in synapses], 1, 100, "%") + " removed",
            "holds" if max(synapses) < 1588 else "does not hold",
            "the paper's procedure, at most a point of validation accuracy lost, stopped after "
            + f"{max(len(run['steps']) for run in runs)} steps though it could go on; "
            + f"{spread(synapses, 0)} synapses and "
            + f"{spread([run['structure'][0] for run in runs], 0)} inputs stay, test "
            + spread([run["test"] for run in runs], 2, 100, "%"),
        )
    ]


def _half(results: Results) -> list[Claim]:
    """Claim: with a floor of 50 %, the procedure ends with 38 synapses."""
    runs = _of(results, "process-half")
    if not runs:
        return []
    synapses = [run["synapses"] for run in runs]
    return [
        Claim(
            "the procedure with a floor of 50 %",
            "38 synapses, 20 inputs",
            f"{spread(synapses, 0)} synapses, "
            + f"{spread([run['structure'][0] for run in runs], 0)} inputs",
            "holds" if sum(synapses) / len(synapses) <= 38 else "does not hold",
            "without regrowth; test " + spread([run["test"] for run in runs], 1, 100, "%"),
        )
    ]


def _few(results: Results) -> list[Claim]:
    """Claim: 38 synapses and 20 inputs recognise half of the test images."""
    runs = _of(results, "few-")
    if not runs:
        return []
    rungs = [rung for run in runs for rung in run["rungs"] if rung["synapses"] == 38]
    tests = [rung["test"] for rung in rungs]
    best = smallest(runs)
    return [
        Claim(
            "38 synapses and 20 inputs recognise half of the test images",
            "50 %",
            "test " + spread(tests, 1, 100, "%"),
            "holds" if sum(tests) / len(tests) >= 0.5 else "does not hold",
            f"with regrowth, for each seed the best of {len(rungs[0]['tried'])} networks on "
            f"validation; {spread([rung['structure'][0] for rung in rungs], 0)} inputs; the "
            f"network drawn, best on validation, has {best['test']:.1%} and {best['structure'][0]}",
        )
    ]


def _letter(results: Results) -> list[Claim]:
    """Claim: over 90 % of synapses are redundant on Letter, too."""
    runs = _of(results, "letter")
    if not runs:
        return []
    steps = [_at(run["curve"], 0.1 * 2100) for run in runs]
    losses = [run["curve"][0]["test"] - step["test"] for run, step in zip(runs, steps, strict=True)]
    return [
        Claim(
            "over 90 % of synapses are redundant, on Letter too",
            "> 90 % in general",
            spread(losses, 1, 100, "points") + f" lost at {steps[0]['synapses']} of 2,100 synapses",
            "holds" if sum(losses) / len(losses) <= 0.01 else "does not hold",
            "16-50-26, WSF, four epochs after each of nine cuts; dense test accuracy "
            + spread([run["curve"][0]["test"] for run in runs], 1, 100, "%"),
        )
    ]


def _movement(results: Results) -> list[Claim]:
    """Claim: redundant synapses do not move in training."""
    runs = _of(results, "hypothesis")
    if not runs:
        return []
    get = lambda name: [run[name] for run in runs]  # noqa: E731
    unlit_of_still = [run["unlit"] * run["still_and_unlit"] / (run["still"] or 1) for run in runs]
    unlit_share = spread(get("unlit_of_lowest"), 1, 100, "%")
    return [
        Claim(
            "redundant synapses do not move in training",
            "the idea of the method",
            spread(get("still"), 2, 100, "%") + " did not move at all",
            "holds" if min(get("still")) >= 0.9 else "holds in part",
            f"{spread(unlit_of_still, 1, 100, '%')} of those read a pixel that is never lit in "
            f"training; of the 92 % that moved least such pixels are {unlit_share}",
        )
    ]


def _ranking(results: Results) -> list[Claim]:
    """Claim: removing a synapse that moved little costs little loss."""
    runs = _of(results, "hypothesis")
    if not runs:
        return []
    gains = [run["wsf_ablation"] - abs(run["random_ablation"]) for run in runs]
    rhos = {
        name: spread([run[f"{name}_ablation"] for run in runs])
        for name in ("wsf", "magnitude", "karnin", "random")
    }
    return [
        Claim(
            "a synapse that moved little is worth little",
            "the idea of the method",
            f"Spearman with exact ablation: WSF {rhos['wsf']}",
            "holds in part" if min(gains) > 0 else "does not hold",
            f"of 500 synapses of lit pixels on 2,000 images; |w| {rhos['magnitude']}, Karnin "
            f"{rhos['karnin']}, random {rhos['random']}; WSF with |w| over all synapses "
            + spread([run["wsf_magnitude"] for run in runs]),
        )
    ]


def _compared(results: Results) -> list[Claim]:
    """Claims: WSF is the best criterion, at 1,259 and at 145 synapses."""
    runs = {
        name: _of(results, f"compared-{name}-") for name in ("wsf", "magnitude", "karnin", "random")
    }
    if not all(runs.values()):
        return []
    claims = []
    for count in (1259, 145):
        accuracies = {
            n: [_at(r["curve"], count)["test"] for r in found] for n, found in runs.items()
        }
        others = {name: values for name, values in accuracies.items() if name != "wsf"}
        rival = max(others, key=lambda name: sum(others[name]) / len(others[name]))
        pairs = list(zip(accuracies["wsf"], others[rival], strict=False))  # seeds that both have
        comparison = paired([ours for ours, _ in pairs], [theirs for _, theirs in pairs])
        verdict: Verdict = "cannot be judged"
        if comparison.p < SURE:
            verdict = "holds" if comparison.mean > 0 else "does not hold"
        reached = _at(runs["wsf"][0]["curve"], count)["synapses"]
        claims.append(
            Claim(
                f"WSF is the best criterion, at {reached:,} synapses",
                "not compared",
                "WSF test " + spread(accuracies["wsf"], 2, 100, "%"),
                verdict,
                f"against {rival}, the next: {comparison.words(2, 100, 'points')}; "
                + ", ".join(f"{n} {spread(v, 2, 100, '%')}" for n, v in others.items()),
            )
        )
    return claims


def _zero(results: Results) -> list[Claim]:
    """Claim: test accuracy after removing nine tenths of the synapses at once, no retraining."""
    runs = _of(results, "hypothesis")
    if not runs:
        return []
    at = lambda name: [run["removed"][2][name] for run in runs]  # noqa: E731
    return [
        Claim(
            "removing at once, without retraining, a tenth kept",
            "not compared",
            "set to zero: test " + spread(at("zero"), 1, 100, "%"),
            "cannot be judged",
            f"set back to w(0) instead: {spread(at('init'), 1, 100, '%')}",
        )
    ]


def _rules(results: Results) -> list[Claim]:
    """Claim: rules can be read off the pruned network."""
    runs = _of(results, "rules-")
    if not runs:
        return []
    counts = [[len(one["inputs"]) for one in run["classes"]] for run in runs]
    alone = [one["alone"] for run in runs for one in run["classes"]]
    fewest, most = ([kind(each) for each in counts] for kind in (min, max))
    read = [run["structure"][0] for run in runs]
    return [
        Claim(
            "rules can be read off the pruned network",
            "named as future work",
            f"{spread(fewest, 0)} to {spread(most, 0)} inputs recognise a digit",
            "holds in part",
            f"of {spread(read, 0)} inputs, all others held at their mean; balanced accuracy of one "
            f"digit against the rest {min(alone):.0%} to {max(alone):.0%}; for 0 to 9, "
            f"in the network drawn: {', '.join(map(str, counts[0]))}",
        )
    ]


def _lists(results: Results) -> list[Claim]:
    """Claims: a network of 38 synapses is a short list of rules, and helps to find good ones."""
    runs = _of(results, "few-")
    if not runs or "lists" not in results:
        return []
    rungs = [smallest([run]) for run in runs]
    get = lambda name: [rung["rules"][name] for rung in rungs]  # noqa: E731
    gain = paired(get("of_network"), get("of_labels"))
    free = results["lists"]
    length = max(len(rung["rules"]["list"]) for rung in rungs)
    verdict: Verdict = "cannot be judged"
    if gain.p < SURE:
        verdict = "holds" if gain.mean > 0 else "does not hold"
    return [
        Claim(
            f"{length} rules say what a network of 38 synapses does",
            "named as future work",
            f"agree on {spread(get('fidelity'), 1, 100, '%')} of the test images",
            "holds in part",
            "a decision list learnt from the network's answers: test "
            + spread(get("of_network"), 1, 100, "%")
            + f", the network {spread([rung['test'] for rung in rungs], 1, 100, '%')}",
        ),
        Claim(
            "the network helps to find rules",
            "hoped for",
            f"against a list learnt from labels on the same inputs: {gain.words(1, 100, 'points')}",
            verdict,
            f"test accuracy at {length} rules: from labels on the network's inputs "
            f"{spread(get('of_labels'), 1, 100, '%')}, a decision tree there "
            f"{spread(get('tree'), 1, 100, '%')}; on all inputs {free['of_labels']:.1%}, a tree "
            f"{free['tree']:.1%}",
        ),
    ]


def fewest(runs: Sequence[Result], goal: float) -> Claim:
    """Claim: the fewest synapses whose validation accuracy reaches `goal`, over seeds."""
    counts, tests, missing = [], [], 0
    for run in runs:
        enough = [rung for rung in run["rungs"] if rung["validation"] >= goal]
        if not enough:
            missing += 1
            continue
        least = min(enough, key=lambda rung: rung["synapses"])
        counts.append(least["synapses"])
        tests.append(least["test"])
    published = {0.97: "1,259", 0.5: "38"}.get(goal, "-")
    aim = f"fewest synapses at {goal:.0%} of validation"
    if not counts:
        return Claim(aim, published, "not reached", "does not hold", f"in any of {missing} seeds")
    verdict: Verdict = "cannot be judged"
    if goal == 0.5:
        verdict = "holds" if sum(counts) / len(counts) <= 38 else "does not hold"
    remark = (
        "test " + spread(tests, 2, 100, "%") + (f"; not reached by {missing} seeds" * bool(missing))
    )
    return Claim(aim, published, spread(counts, 0), verdict, remark)


def attempts(results: Results, quick: bool) -> list[Claim]:
    """Return a row for each planned attempt at 1,259 synapses."""
    plan = enumerate(small.plan(quick))
    named = (
        (f"attempt {i + 1} at 1,259: {name}", _of(results, f"attempt-{i:02}")) for i, name in plan
    )
    return [_trained(name, runs) for name, runs in named if runs]


def activations(results: Results) -> list[Claim]:
    """Return a row for each activation that was trained like the best networks, but briefly."""
    title = "1,259 synapses, trained briefly, with "
    found = {name: result for name, result in results.items() if name.startswith("activation-")}
    return [
        _trained(title + name.removeprefix("activation-"), result["runs"])
        for name, result in found.items()
    ]


def _trained(title: str, runs: Sequence[Mapping]) -> Claim:
    """Return the row of networks of 1,259 synapses that were trained alike but for their seed."""
    tests, checks, seen = ([run[part] for run in runs] for part in ("test", "validation", "train"))
    inputs = [run["structure"][0] for run in runs]
    return Claim(
        title,
        "97 %",
        "test " + spread(tests, 2, 100, "%"),
        "holds" if sum(tests) / len(tests) >= 0.97 else "does not hold",
        f"validation {spread(checks, 2, 100, '%')}, train {spread(seen, 2, 100, '%')}; "
        f"{spread(inputs, 0)} inputs",
    )


def _at(curve: Sequence[Mapping[str, float]], count: float) -> Mapping[str, float]:
    """Return the step with the most synapses among those with at most `count`."""
    return max((s for s in curve if s["synapses"] <= count), key=lambda step: step["synapses"])
