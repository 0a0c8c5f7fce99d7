r"""What grading costs: seconds a submission by part, memory by process, and whether it can be stopped and repeated.

    python benchmarks/grading.py                            200 submissions of notebook 06, two at a time
    python benchmarks/grading.py --submissions 20 --kills 10   and killed ten times on the way
    python benchmarks/grading.py --submissions 20 --twice      and graded once more, byte for byte
    python benchmarks/grading.py --submissions 8 --slow        with the exercise that trains, and whole runs

Half of the submissions are solved, a quarter is blank, a quarter has a wrong answer; none trains, and no notebook runs
as a whole. With `--slow` the exercise that trains is there, and the wrong answer stands behind a condition, so that the
whole notebook has to run before it counts as wrong: the most that a submission costs. The load of the
machine is printed beside the figures: on one that is busy the seconds say little.
"""

import argparse
import copy
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil

from coursekit.authoring.solve import solve
from coursekit.checks import every_kind
from coursekit.checks.training import Training

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "06_lora.ipynb"
MB = 2**20


def course(path: Path, source: Path, slow: bool) -> dict[str, Any]:
    r"""`source` without outputs and, unless `slow`, without exercises that train, written to `path`."""
    trained = {id for id, e in every_kind().items() if isinstance(e, Training) and not slow}
    notebook = json.loads(source.read_text())
    cells = notebook["cells"]
    notebook["cells"] = [c for c in cells if c["metadata"].get("nbgrader", {}).get("grade_id") not in trained]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    path.write_text(json.dumps(notebook))
    return notebook


def write(folder: Path, place: Path, n: int, slow: bool) -> dict[str, str]:
    r"""Write `n` submissions; returns the status that each is to have."""
    solve(NOTEBOOK, place / "solved.ipynb")
    blank = course(place / "course.ipynb", NOTEBOOK, slow)
    solved = course(place / "solved.ipynb", place / "solved.ipynb", slow)
    wrong = "def lora_truncate(W, r): return W"
    if slow:
        wrong = f"if bool(1):\n    {wrong}"
    expected = {}
    folder.mkdir()
    for i in range(n):
        status = ("ok", "ok", "not_attempted", "wrong")[i % 4]
        notebook = copy.deepcopy(blank if status == "not_attempted" else solved)
        for cell in notebook["cells"]:
            source = "".join(cell["source"])
            if status == "wrong" and "def lora_truncate" in source:
                cell["source"] = wrong
        notebook["cells"].append({"cell_type": "markdown", "metadata": {}, "source": f"student {i}"})
        (folder / f"student{i:04}.ipynb").write_text(json.dumps(notebook))
        expected[f"student{i:04}"] = status
    return expected


def command(place: Path, out: Path, jobs: int) -> list[str]:
    r"""The grader's own command line."""
    given = ["grade", place / "submissions", "--out", out, "--jobs", jobs, "--notebook", place / "course.ipynb"]
    return [sys.executable, "-m", "coursekit.cli", *map(str, given)]


def measured(process: psutil.Popen) -> dict[str, int]:
    r"""The most memory by role while `process` runs: pages that several share are counted in parts (PSS)."""
    most: dict[str, int] = defaultdict(int)
    while process.poll() is None:
        now: dict[str, int] = defaultdict(int)
        for one in [process, *_children(process)]:
            try:
                now[_role(one, process.pid)] += one.memory_full_info().pss
            except (psutil.Error, OSError):
                continue
        now["all together"] = sum(now.values())
        for role, used in now.items():
            most[role] = max(most[role], used)
        time.sleep(0.5)
    return most


def _children(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _role(one: psutil.Process, grader: int) -> str:
    if one.pid == grader:
        return "grader"
    line = " ".join(one.cmdline())
    return "judge" if "grading.judge" in line else "prefork servers and boxes"


def killed(place: Path, out: Path, jobs: int, kills: int, seed: int) -> None:
    r"""Begin the batch, and end the grader with SIGKILL after a random number of its events; `kills` times."""
    chance = random.Random(seed)
    events = out / "events.jsonl"
    for _ in range(kills):
        until = chance.randint(1, 6) + (len(events.read_text().splitlines()) if events.exists() else 0)
        with subprocess.Popen(command(place, out, jobs), stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                if events.exists() and len(events.read_text().splitlines()) >= until:
                    time.sleep(chance.random() / 2)
                    break
                time.sleep(0.01)
            process.kill()


def content(out: Path) -> dict[str, str]:
    r"""The bytes of all results, without the times."""
    found = {}
    for path in sorted((out / "results").glob("[!.]*.json")):
        result = json.loads(path.read_text())
        del result["times"]
        found[path.name] = json.dumps(result)
    return found


def table(out: Path) -> list[tuple[str, float, float]]:
    r"""(part, median, 95th percentile) of the seconds of a submission."""
    times: dict[str, list[float]] = defaultdict(list)
    for path in (out / "results").glob("[!.]*.json"):
        for part, seconds in json.loads(path.read_text())["times"].items():
            times[part].append(seconds)
    return [(p, statistics.median(s), sorted(s)[int(0.95 * (len(s) - 1))]) for p, s in times.items()]


def main() -> None:
    r"""Write, grade, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--twice", action="store_true")
    parser.add_argument("--slow", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        expected = write(place / "submissions", place, given.submissions, given.slow)
        load, begun = os.getloadavg()[0], time.monotonic()
        process = psutil.Popen(command(place, place / "marks", given.jobs), stdout=subprocess.DEVNULL)
        most = measured(process)
        seconds = time.monotonic() - begun
        lines = [json.loads(x) for x in (place / "marks" / "manifest.jsonl").read_text().splitlines()]
        results = {x["submission"]: json.loads((place / f"marks/results/{x['key']}.json").read_text()) for x in lines}
        wrong = {n: r["status"] for n, r in results.items() if r["status"] != expected[n]}
        print(
            f"{len(results)} submissions, {given.jobs} at a time, {seconds:.1f} s, {seconds / len(results):.3f} s each"
        )
        print(
            f"load {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end; unexpected statuses: {wrong or 'none'}"
        )
        for part, middle, high in table(place / "marks"):
            print(f"  {part:8} median {middle:.3f} s, 95 % below {high:.3f} s")
        for role, used in most.items():
            print(f"  {role:20} at most {used / MB:.0f} MB")
        secret = (place / "marks" / "secret").read_text()
        for name in ["killed"] * bool(given.kills) + ["again"] * given.twice:
            out = place / name
            out.mkdir(mode=0o700)
            (out / "secret").write_text(secret)
            if name == "killed":
                killed(place, out, given.jobs, given.kills, given.seed)
                begun_by_then = sum('"begin"' in x for x in (out / "events.jsonl").read_text().splitlines())
            subprocess.run(command(place, out, given.jobs), stdout=subprocess.DEVNULL, check=True)
            same = content(out) == content(place / "marks")
            print(f"{name}: {'the same bytes' if same else 'OTHER RESULTS'} but for times")
            if name == "killed":
                print(f"  after {given.kills} SIGKILLs, with {begun_by_then} submissions begun by then")
            if not same:
                raise SystemExit(1)


if __name__ == "__main__":
    main()
