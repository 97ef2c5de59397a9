"""`sentei demo`."""

from __future__ import annotations

from pathlib import Path

FLOOR = 0.01  # accuracy the demonstration may lose, on validation data: one point


def demo(
    *,
    epochs: int = 10,
    seed: int = 0,
    threads: int = 1,
    out: Path = Path("runs/demo"),
) -> None:
    """Train a digit network, prune it by a point of accuracy, and show what is left.

    A sigmoid 784-100-10 network learns MNIST; hidden units whose removal raises the loss least go,
    one at a time, each ranking exact, until validation accuracy would have fallen by more than one
    point. What is left is shrunk, proven to be the same function, saved, loaded again and measured.

    Parameters
    ----------
    epochs
        Passes through the training data.
    seed
        The same seed on the same machine gives the same bytes.
    threads
        How many torch may use.
    out
        Folder for networks, journal and figures. Run again, it goes on from its journal.
    """
    import torch

    import sentei
    from sentei import datasets, formats, training
    from sentei.cli.command_line import command
    from sentei.cli.screen import console, head, progress, say
    from sentei.pruning.journal import note
    from sentei.reporting.figures import write
    from sentei.reporting.gallery import gallery
    from sentei.reporting.page import of_journal
    from sentei.reporting.page.story import words_for
    from sentei.reporting.tables import before_and_after, facts

    torch.set_num_threads(threads)
    dense, small = out / "dense.safetensors", out / "small.safetensors"

    head("1. Train 784-100-10 on 55,000 images of MNIST")
    split = datasets.load("mnist", seed=seed)
    network = training.build("784-100-10", seed=seed)
    recipe = training.Recipe(epochs=epochs, seed=seed)
    with progress("training", epochs) as advance:
        training.train(
            network, split.train, recipe, progress=lambda n, loss: advance(n, f"loss {loss:.4f}")
        )
    formats.save(network, dense)

    head(f"2. Prune by exact ablation until accuracy would fall by more than {FLOOR:.0%}")
    groups = sentei.find_units(network, split.train.inputs[:64])
    probe = sentei.Probe(network, split.train.first(10_000))
    journal = out / "journal"
    run = sentei.prune(
        network,
        groups,
        probe,
        sentei.ranked("ablation", sentei.one_at_a_time()),
        keeping=sentei.accuracy_within(FLOOR),
        evaluate=split.validation,
        journal=journal,
        resume=(journal / "run.json").exists(),
    )
    note(journal, words_for(split, command(), seed))
    steps = []
    with progress("pruning", groups[0].size) as advance:
        for step in run:
            steps.append(step)
            advance(step.number, f"{step.measured.accuracy:.2%} with {step.measured.units} units")
    last = steps[-1]
    say(f"The next unit would have cost too much: {last.measured.units} of 100 stay.")

    head("3. Shrink, prove, save, load again")
    masked, mask = last.network(), last.mask
    example = split.train.inputs[:64]
    formats.save(sentei.shrink(masked, mask, example), small, mask=mask.shrunk())
    say(f"Certificate: {sentei.certify(masked, formats.load(small), example)}.")

    head("4. Before and after, on 10,000 test images that nothing has looked at until now")
    before, after = (facts(formats.load(file), file, split.test) for file in (dense, small))
    console.print(before_and_after(before, after))
    say("A mask alone would have changed none of these sizes or times.")
    for name, figure in gallery(of_journal(journal)).items():
        write(figure, out / "figures" / name)
    say(f"\nFigures: {out / 'figures'}. Networks: {dense}, {small}. Every step: {journal}")
    say(f"Open this page, and draw: {sentei.report(journal, out / 'report.html')}")
