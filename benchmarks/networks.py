"""Try sentei and Torch-Pruning on networks that other people wrote; write docs/networks.md.

Run: make networks, or python benchmarks/networks.py; --help lists the options. Each network runs in
a process of its own, with random weights. Results are appended to benchmarks/networks.jsonl, one
line a network; one that is there already with the same source of sentei is not run again. The
environment is that of `benchmarks/networks_requirements.txt`.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import multiprocessing
import os
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src" / "sentei"
RESULTS = HERE / "networks.jsonl"
PAGE = HERE.parent / "docs" / "networks.md"
WRITING = threading.Lock()
# Processes are forked from one that has imported the libraries: that takes longer than a network.
PROCESSES = multiprocessing.get_context("forkserver")
PRELOADED = ["networks_measure", "torch_pruning", "torchvision", "timm", "transformers", "peft"]


def fingerprint() -> str:
    """Return a hash of sentei's source."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE.rglob("*.py")):
        digest.update(path.relative_to(SOURCE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


SOURCE_HASH = fingerprint()


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the last result of each network."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {result["name"]: result for result in map(json.loads, lines)}


def main() -> None:
    """Run what is missing, and write the page."""
    options = parsed()
    from networks_page import write_page
    from networks_zoo import zoo

    names = list(zoo())
    if not options.page:
        run_all(chosen(names, options), options)
        tidy = [read(options.results)[name] for name in names if name in read(options.results)]
        options.results.write_text("".join(json.dumps(each) + "\n" for each in tidy), "utf-8")
    results = read(options.results)
    if not options.only or options.page:
        write_page(PAGE, {name: results[name] for name in names if name in results}, len(names))


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="as in a shell")
    parser.add_argument("--again", action="store_true", help="also what is measured already")
    parser.add_argument("--missing", action="store_true", help="what has no result of any version")
    parser.add_argument("--failed", action="store_true", help="what did not succeed in all stages")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=int, default=600, help="processor seconds for a network")
    parser.add_argument("--memory", type=float, default=8, help="GiB for a network")
    parser.add_argument("--mixed", action="store_true", help="in an order that mixes the families")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def chosen(names: Sequence[str], options: argparse.Namespace) -> list[str]:
    """Return the networks to run."""
    known = read(options.results)
    wanted = [
        n for n in names if not options.only or any(fnmatch.fnmatch(n, p) for p in options.only)
    ]
    if options.missing:
        wanted = [name for name in wanted if name not in known]
    if options.failed:
        wanted = [name for name in wanted if name not in known or not succeeded(known[name])]
    if options.mixed:
        wanted.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    if options.again:
        return wanted
    return [name for name in wanted if known.get(name, {}).get("source") != SOURCE_HASH]


def succeeded(result: dict[str, Any]) -> bool:
    """Return whether a network was cut whole, and each of its groups, and nothing was wrong."""
    alone = result.get("alone", {})
    return (
        *(result.get("stage") == "done", result.get("followed") == "", bool(result.get("groups"))),
        *(result.get("refused") == "", result.get("wrong") is False, not alone.get("refused")),
        *(not alone.get("wrong"), not result.get("saved"), not result.get("trained")),
    ).count(False) == 0


def run_all(names: Sequence[str], options: argparse.Namespace) -> None:
    """Run networks, several at once, and append their results."""
    print(f"{len(names)} networks", flush=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    os.environ["PYTHONPATH"] = f"{SOURCE.parent}{os.pathsep}{HERE}"
    PROCESSES.set_forkserver_preload(PRELOADED)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda name: run_one(name, options), names))


def run_one(name: str, options: argparse.Namespace) -> None:
    """Run one network in a process of its own, within its time and memory."""
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        into, log = Path(folder, "result.json"), Path(folder, "log")
        process = PROCESSES.Process(target=child, args=(name, into, log, options.limit))
        process.start()
        end = watched(process, 4 * options.limit, options.memory * 2**30)
        result = json.loads(into.read_text()) if into.exists() else {}
        if process.exitcode and not end:
            tail = log.read_text(errors="replace").strip().splitlines()[-1:] or [""]
            end = f"the process ended with {process.exitcode}: {tail[0][:300]}"
            if process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL):
                end = f"more than {options.limit} s of processor time"
    result = {"name": name, "source": SOURCE_HASH, "date": time.strftime("%Y-%m-%d"), **result}
    result |= {"ended": end, "wall": round(time.time() - start, 1)}
    with WRITING, options.results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    print(line(result), flush=True)


def watched(process: Any, seconds: float, memory: float) -> str:
    """Wait for a process; kill it beyond a time or a number of bytes. Return why, or ""."""
    start = time.time()
    while process.is_alive():
        process.join(0.2)
        try:
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
        if pages * resource.getpagesize() > memory:
            process.kill()
            process.join()
            return f"more than {memory / 2**30:g} GiB of memory"
        if time.time() - start > seconds:
            process.kill()
            process.join()
            return f"more than {seconds:g} s"
    return ""


def line(result: dict[str, Any]) -> str:
    """Return a result in one line for the terminal."""
    if result.get("followed") is None or result["followed"]:
        what = f"not followed: {result.get('followed') or result['ended']}"[:160]
    else:
        alone = result.get("alone", {})
        what = (
            f"{len(result['groups'])} groups, {result['offered']:.0%} offered, "
            f"at once {'yes' if result.get('refused') == '' else 'NO'}, "
            f"error {result.get('error', float('nan')):.0e}, "
            f"alone {alone.get('certified', 0)}/{alone.get('tried', 0)}"
        )
    return f"{result['name']:45} {result['wall']:6.1f} s  {what}  {result['ended']}"


def child(name: str, into: Path, log: Path, limit: int) -> None:
    """Measure a network in this process, and write its results to a file as they come."""
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    with log.open("w") as out:
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
    import warnings

    import torch

    from networks_measure import measure
    from networks_zoo import zoo

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    def report(result: dict[str, Any]) -> None:
        scratch = into.with_suffix(".part")
        scratch.write_text(json.dumps(result))
        scratch.replace(into)

    measure(zoo()[name], report)


if __name__ == "__main__":
    main()
