r"""What the exercises need of a notebook: the names they use, as these stand above them, and no training beside."""

import pytest

from coursekit.grading.needs import MOST_MAGICS, needed

IMPORTS = "import torch\nimport torch.nn.functional as F\nfrom slow import train"


def kept(cells: list[str], name: str = "answer") -> str:
    found = needed(cells, [name]).cells
    return "\n".join(line for number in sorted(found) for line in found[number].splitlines() if line.strip())


#: Cells, and what of them the answer needs.
KEPT = {
    "training that no answer depends on is left out": (
        [IMPORTS, "model = train()", "train(model)", "def answer(x):\n    return torch.relu(x)"],
        "import torch\ndef answer(x):\n    return torch.relu(x)"),
    "training that the answer depends on is kept": (
        [IMPORTS, "model = 1\nother = 2", "train(model)\nprint(other)", "def answer(x):\n    return model + x"],
        "from slow import train\nmodel = 1\ntrain(model)\ndef answer(x):\n    return model + x"),
    "a local name is not a global one": (
        ["model = train()", "def answer(model):\n    W = model\n    return [model for model in W]"],
        "def answer(model):\n    W = model\n    return [model for model in W]"),
    "a name means what stands above it": (
        ["helper = 1", "def answer():\n    return helper", "helper = train()"],
        "helper = 1\ndef answer():\n    return helper"),
    "or else what stands below": (
        ["def answer():\n    return helper", "helper = 1"], "def answer():\n    return helper\nhelper = 1"),
    "what binds only perhaps is not all": (
        ["x = 1", "if x:\n    y = 2", "y = 0", "if x:\n    y = 3", "def answer():\n    return y"],
        "x = 1\ny = 0\nif x:\n    y = 3\ndef answer():\n    return y"),
}  # fmt: skip


@pytest.mark.parametrize("cells, text", KEPT.values(), ids=KEPT)
def test_what_is_needed_is_kept_and_nothing_else(cells, text):
    assert kept(cells) == text


@pytest.mark.parametrize("change", ["W[0] = 1", "W += 1", "W.append(1)", "for i in W:\n    W.append(i)", "del W[0]"])
def test_whatever_changes_a_value_is_kept(change):
    assert change in kept(["W = [0]", change, "V = []\nV.append(1)", "def answer():\n    return W"])
    assert "V" not in kept(["W = [0]", change, "V = []\nV.append(1)", "def answer():\n    return W"])


def test_lines_keep_their_numbers_and_shared_lines_stay_whole():
    found = needed(["\n\na = 1; b = 2\nc = 3\n\ndef answer():\n    return a"], ["answer"]).cells[0]
    assert found == "\n\na = 1; b = 2\n\n\ndef answer():\n    return a"


@pytest.mark.parametrize("head", ["%%time", "%%capture out", "%load_ext x", "!ls", "?answer"])
def test_magics_are_no_obstacle(head):
    assert "return 1" in kept([f"{head}\ndef answer():\n    return 1"])


def test_a_cell_has_only_so_many_magics():
    r"""A thousand of them would take minutes to read, in which nobody else is graded."""
    lines = "%x\n" * MOST_MAGICS
    assert needed([f"{lines}answer = 1"], ["answer"]).copies == {"answer": 1}
    found = needed([f"{lines}%x\nanswer = 1"], ["answer"])
    assert found.copies == {"answer": 0} and "more than 100 magics" in found.broken[0]


@pytest.mark.parametrize("line", ["from helper import *", "%run helper.py", "exec('x = 1')", "globals()['x'] = 1"])
def test_what_cannot_be_seen_through_is_kept(line):
    found = needed([line, "def other():\n    return x"], ["answer"])
    assert found.opaque and 0 in found.cells


def test_a_blank_copy_takes_nothing_away_and_copies_are_counted():
    written, blank = ("def answer(x):\n    return x", 'def answer(x):\n    r"""Doc."""\n    return ...  # your code')
    for cells in ([written, blank], [blank, written]):
        found = needed(cells, ["answer"])
        assert found.copies == {"answer": 2} and "return x" in kept(cells) and "..." not in kept(cells)
    assert "..." in kept([blank])
    assert "return 2" in kept([written, "def answer(x):\n    return 2"])


@pytest.mark.parametrize("cell, why", [("def answer(:", "line 1"), ("answer = 'a\0b'", "null bytes")])
def test_a_cell_that_is_no_python_spoils_no_other(cell, why):
    found = needed([cell, "def other():\n    return 1"], ["answer", "other"])
    assert found.broken.keys() == {0} and why in found.broken[0]
    assert found.copies == {"answer": 0, "other": 1} and 1 in found.cells


def test_two_answers_do_not_need_each_others_cells():
    cells = ["import torch\ndef one():\n    return torch", "import torch\ndef two():\n    return torch"]
    found = needed(cells, ["one", "two"])
    assert found.needed == {"one": [0], "two": [0, 1]}


IMPORT = "import torch"
CERTAIN = [
    ["def helper(x):\n    return x", "def answer(x):\n    return helper(torch.relu(x))", "check('a', answer)", "y = 1"],
    ["SCALE = 2", "def answer(x):\n    return SCALE * x", "print(answer(1))", "import torch"],
]
DOUBTFUL = {
    "bound twice": ["def answer(x):\n    return x", "if y:\n    def answer(x):\n        return 2"],
    "a counter": ["calls = 0", "def answer():\n    global calls\n    calls += 1"],
    "patched": ["class A:\n    pass", "def answer():\n    return A()", "A.f = 1"],
    "patched by setattr": ["class A:\n    pass", "def answer():\n    return A()", "setattr(A, 'f', 1)"],
    "given away": ["def answer():\n    return 1", "other = wrap(answer)"],
    "given away in a function": ["def answer():\n    return 1", "def change():\n    answer.x = 1"],
    "patched by a look": ["class A:\n    pass", "def answer():\n    return A()", "print(setattr(A, 'f', 1))"],
    "patched in a list": ["class A:\n    pass", "def answer():\n    return A()", "[setattr(A, 'f', 1)]"],
    "decorated": ["def d(f):\n    return f", "@d\ndef answer():\n    return 1"],
    "computed": ["x = torch.ones(3)", "def answer():\n    return x"],
    "nowhere bound": ["def answer():\n    return helper()"],
    "a file of one's own": ["import mine", "def answer():\n    return mine.f()"],
    "a window": ["def answer():\n    return globals()['x']"],
    "a window elsewhere": ["def answer():\n    return 1", "f = vars()"],
    "a magic": ["def answer():\n    return 1", "%run x.py"],
    "a cell magic": ["def answer():\n    return 1", "%%writefile mine.py\nx"],
    "torch patched": ["def answer():\n    return torch.relu(1)", "torch.relu = abs"],
    "torch set": ["def answer():\n    return torch.relu(1)", "torch.set_default_dtype(torch.float64)"],
    "an import that is bound again": ["def answer():\n    return torch.relu(1)", "torch = 1"],
}


@pytest.mark.parametrize("cells", CERTAIN)
def test_a_function_that_nothing_reaches_is_certain(cells):
    assert needed([IMPORT, *cells], ["answer"]).certain == ["answer"]


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_a_function_that_something_may_change_is_not(kind):
    assert needed([IMPORT, *DOUBTFUL[kind]], ["answer"]).certain == []


def test_the_course_s_own_cells_may_use_it():
    cells = [IMPORT, "def answer():\n    return 1", "model = put(answer)"]
    assert needed(cells, ["answer"]).certain == [] and needed(cells, ["answer"], [2]).certain == ["answer"]
    assert needed([*cells, "answer = 1"], ["answer"], [2, 3]).certain == []
