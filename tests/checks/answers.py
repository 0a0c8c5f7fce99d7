r"""The answers in tests/solutions, by the name of their function."""

import importlib.util
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "solutions"


def solutions() -> dict[str, object]:
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"solutions_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found |= {n: f for n, f in vars(module).items() if callable(f)}
    return found


SOLUTIONS = solutions()
