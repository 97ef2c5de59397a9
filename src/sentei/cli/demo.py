"""The command `sentei demo`: train, prune, shrink and measure an MNIST network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sentei.cli.bounds import Count, Seed
from sentei.cli.options import OutFolder, RunOnDevice
from sentei.cli.screen import Result, head
from sentei.cli.stopping import resumed_by

FLOOR = 0.01  # validation accuracy that the demonstration may lose: one point


def demo(
    *,
    epochs: Count = 10,
    seed: Seed = 0,
    out: OutFolder = Path("runs/demo"),
    run: RunOnDevice = RunOnDevice(),
) -> Result:
    """Train an MNIST network, prune it for at most one point of accuracy, and measure the result.

    The network is a sigmoid 784-100-10 multilayer perceptron. Hidden units are removed one at a
    time, always the one whose removal raises the loss least, measured after another unit takes
    over (exact ablation). All units that stay then take over by least squares. That ends before
    validation accuracy falls by more than one point. The pruned network is shrunk, compared with
    the masked network on example inputs, saved, loaded again and measured.

    Parameters
    ----------
    epochs
        Number of passes through the training data.
    seed
        Random seed: the same seed on the same machine gives the same bytes.
    out
        Folder for networks, journal and figures. A second run continues from the journal.
    """
    import sentei
    from sentei import datasets, formats, training
    from sentei.cli.command_line import command
    from sentei.cli.loading import trained_
    from sentei.cli.screen import note, progress
    from sentei.pruning import journal as journals
    from sentei.reporting import page as pages
    from sentei.reporting.figures import write
    from sentei.reporting.gallery import gallery
    from sentei.reporting.page.network_facts import facts
    from sentei.reporting.page.story import Tested, words_for
    from sentei.reporting.tables import before_and_after

    run.start()
    dense, small = out / "dense.safetensors", out / "small.safetensors"

    note("1. Train 784-100-10 on 55,000 images of MNIST")
    split = datasets.load("mnist", seed=seed)
    network = training.build("784-100-10", seed=seed).to(run.place())
    recipe = training.Recipe(epochs=epochs, seed=seed)
    trained_(network, split, recipe, "training")
    formats.save(network, dense)

    note(f"2. Prune by exact ablation; accuracy may fall by {100 * FLOOR:g} percentage point")
    groups = sentei.find_units(network, split.train.inputs[:64])
    probe = sentei.Probe(network, split.train.first(10_000))
    journal = out / "journal"
    resumed_by(out)
    pruning = sentei.prune(
        network,
        groups,
        probe,
        sentei.ranked("ablation-affine", sentei.one_at_a_time(), repair="least_squares"),
        keeping=sentei.accuracy_within(FLOOR),
        evaluate=split.validation,
        journal=journal,
        resume=(journal / "run.json").exists(),
    )
    journals.note(journal, words_for(split, command(), seed))
    steps = []
    with progress("removed", groups[0].size) as advance:
        for step in pruning:
            steps.append(step)
            advance(step.number, f"{step.measured.accuracy:.2%} with {step.measured.units} units")
    last = steps[-1]
    note(f"The next removal would cost too much accuracy: {last.measured.units} of 100 units stay.")

    note("3. Shrink, save, load, and compare with the masked network")
    masked, mask = last.network(), last.mask
    example = split.train.inputs[:64]
    formats.save(sentei.shrink(masked, mask, example), small, mask=mask.shrunk())
    certificate = sentei.certify(masked, formats.load(small), example, mask=mask)
    note("4. Measure both, and draw the figures and the page")
    before, after = (facts(formats.load(file), file, split.test) for file in (dense, small))
    tested = Tested(split.test.rows, before, after, str(certificate))
    story = replace(pages.of_journal(journal), tested=tested)
    for name, figure in gallery(story).items():
        write(figure, out / "figures" / name)
    page = pages.write(story, out / "report.html")
    files = {"network": dense, "journal": journal, "page": page, "figures": out / "figures"}
    return Result(
        {"before": before, "after": after, "out": small, "certificate": str(certificate), **files},
        (
            f"Certificate: {certificate}.",
            head("Before and after, on 10,000 test images that no earlier stage used"),
            before_and_after(before, after),
            "A mask alone would have changed none of these sizes or times.",
            f"\nFigures: {out / 'figures'}. Networks: {dense}, {small}. Every step: {journal}",
            f"Open this page and draw a digit: {page}",
        ),
    )
