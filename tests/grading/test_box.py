r"""The box from inside: what a submission sees, may write, may call. A submission that prints is asked."""

import ast
import copy
import json
import os
import subprocess
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import pytest
from conftest import COURSE, ROOT, in_ci
from hostile import files

from coursekit import checks
from coursekit.grading import boxes, package, verdict
from coursekit.grading.bwrap_runner import BwrapRunner
from coursekit.grading.inside import checks as inside_checks
from coursekit.grading.judge import Judge
from coursekit.grading.limits import MB, Limits
from coursekit.grading.one import Assignment, Run
from coursekit.grading.plan import preload


def test_ci_has_a_box():
    r"""Elsewhere the tests of boxes are skipped where there is no bubblewrap; in CI that would hide everything."""
    problem = boxes.probe("bwrap")
    assert problem is None or not in_ci(), problem


def test_the_boxs_checks_have_every_name_that_a_notebook_imports():
    r"""Else the whole import statement fails in the box, and all other names of it are missing too."""
    there = {n.name for n in ast.parse(Path(inside_checks.__file__).read_text()).body if hasattr(n, "name")}
    wanted = set()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        for statement in (s for c in cells for s in package.imports("".join(c["source"]))[0]):
            node = ast.parse(statement).body[0]
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("coursekit.checks"):
                assert node.module == "coursekit.checks", f"{path.name}: {statement} is not in the box"
                wanted |= {alias.name for alias in node.names}
    assert {"check", "numbers", "practice", "yours"} <= wanted <= there


@pytest.mark.parametrize("name", ["check", "latest", "numbers", "practice", "yours"])
def test_the_boxs_checks_are_called_as_those_outside(name):
    there, outside = (signature(getattr(module, name)).parameters for module in (inside_checks, checks))
    assert [(p.name, p.default) for p in there.values()] == [(p.name, p.default) for p in outside.values()]


def test_what_a_notebook_imports_at_its_head_is_imported_before_anybody_waits():
    r"""transformers takes eight seconds: once a batch, not once a submission."""
    found = preload(COURSE)
    assert "from coursekit.models import load_decoder, load_encoder" in found
    assert not any(line.startswith("import os, pathlib") for line in found)  # the set-up does more than import


@pytest.mark.parametrize("below", ["env", "."])
def test_an_environment_in_tmp_is_seen_in_the_box_and_nothing_else_of_tmp(tmp_path, monkeypatch, box, below):
    env = tmp_path / below / "venv"
    for name in (env / "seen", tmp_path / "hidden", tmp_path / "lib" / "there", tmp_path / "in" / "there"):
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_text("x")
    boxes.write_users(tmp_path / "lib")
    paths = boxes.python_paths()
    monkeypatch.setattr(boxes, "python_paths", lambda: [*paths, str(env)])
    command = boxes.bwrap_command(tmp_path / "lib", tmp_path / "in", Limits())
    command = [*command[: command.index("--")], "--", "/usr/bin/find", str(tmp_path), "-type", "f"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert set(found) == {str(env / "seen"), str(tmp_path / "lib" / "there"), str(tmp_path / "lib" / "passwd")}


class Place:
    r"""A slot and a judge, and what a submission printed into them."""

    def __init__(self, folder: Path, solved: dict) -> None:
        self.folder, self.solved = folder, solved
        folder.chmod(0o711)
        lib = package.copy_package(folder / "lib")
        boxes.write_users(lib)
        names = ("lora-truncate", "lora-merge")
        self.judge = Judge(b"s" * 32, list(names), 4)
        limits = Limits(run=60, exercise=30, memory=1024 * MB, disk=32 * MB, inodes=500)
        self.slot = BwrapRunner(0, folder, lib, limits, preload(COURSE), [folder / "secret"], None)
        points = self.judge.ask("facts")["points"]
        self.assignment = Assignment("06_lora", names, limits, "bwrap", 4, points=points)

    def run(self, source: str) -> tuple[dict, str]:
        notebook = copy.deepcopy(self.solved)
        files.cell_of(notebook, "lora_truncate")["source"] = source
        files.save(self.folder, "submission.ipynb", notebook)
        result = Run(self.folder / "submission.ipynb", self.assignment, self.slot, self.judge).grade()
        return result, self.slot.output.read_text(errors="replace")

    def close(self) -> None:
        self.slot.close()
        self.judge.close()


@pytest.fixture(scope="module")
def place(box: str, tmp_path_factory: pytest.TempPathFactory, solved: dict):
    found = Place(tmp_path_factory.mktemp("box"), solved)
    yield found
    found.close()


@pytest.fixture(scope="module")
def asked(place: Place) -> Callable[[str], object]:
    r"""The value of an expression (or of `found` after statements) inside the box."""

    def ask(code: str) -> object:
        lines = "\n".join("    " + line for line in code.strip().splitlines())
        source = f"import json, os, sys\ndef lora_truncate(W, r):\n{lines}\n    print('FOUND', json.dumps(found))"
        _, printed = place.run(source)
        lines = [line for line in printed.splitlines() if line.startswith("FOUND ")]
        assert lines, printed
        return json.loads(lines[0][6:])

    return ask


def test_a_right_answer_in_the_box_is_right(place: Place, solved: dict):
    result, _ = place.run("".join(files.cell_of(solved, "lora_truncate")["source"]))
    assert result["status"] == "ok" and all(e["points"] == e["of"] for e in result["exercises"])


def test_no_reference_mutant_or_test_is_inside_nor_a_text_of_the_checks_on_the_disk(asked):
    code = """
import coursekit.methods, gc, types
from coursekit.checks import check
rooms = tuple(f'coursekit.{room}' for room in ('checks', 'grading', 'authoring'))
inside = [n for n in sys.modules if n.startswith((*rooms, 'tests'))]
names = ('_smallest', '_without_values', '_columns_of_Vh', 'Exercise', 'mistake')
inside += [o.__name__ for o in gc.get_objects() if isinstance(o, (types.FunctionType, type)) and o.__name__ in names]
inside.append(repr(check('lora-truncate', None)))
texts = []
for folder, folders, names in os.walk('/'):
    folders[:] = [f for f in folders if f not in ('proc', 'sys', 'usr') and (f.startswith('coursekit')
        or not folder.endswith(('site-packages', '/lib/python3.11', '/lib/python3.12', '/lib/python3.13')))]
    for name in names:
        path = os.path.join(folder, name)
        if name.endswith(('.py', '.ipynb', '.json', '.jsonl', '.md', '.txt')):
            try:
                if b'these are the r ' + b'smallest singular values' in open(path, 'rb').read(): texts.append(path)
            except OSError: pass
found = [inside, texts]
"""
    assert asked(code) == [["coursekit.checks", "○ lora-truncate: checked by the grader"], []]


def test_only_this_submission_is_visible_and_only_for_reading(asked, place: Place):
    code = f"""
written = []
for folder, folders, names in os.walk('/'):
    folders[:] = [f for f in folders if os.path.join(folder, f) not in ('/proc', '/tmp', '/dev/shm', '/home/student')]
    if len(folder) < 200 and folder.count('/') < 5:
        try: open(folder + '/x', 'w'); written.append(folder)
        except OSError: pass
found = [sorted(os.listdir('/in')), os.path.exists({str(place.slot.report)!r}),
         os.listdir({str(place.slot.folder.parent)!r}), written]
"""
    assert asked(code) == [["job.json", "notebook.ipynb"], False, ["lib"], []]


def test_what_may_be_written_has_an_end(asked):
    code = """
found = {}
for folder in ('/tmp', '/dev/shm', '/home/student'):
    try:
        for n in range(10): open(f'{folder}/{n}', 'wb').write(b'x' * 5_000_000)
    except OSError as error: found[folder] = [n, error.errno]
    for n in range(10):
        if os.path.exists(f'{folder}/{n}'): os.unlink(f'{folder}/{n}')
    try:
        for n in range(1000): open(f'{folder}/{n}', 'wb').close()
    except OSError as error: found[folder].append(n < 500)
    for n in range(1000):
        if os.path.exists(f'{folder}/{n}'): os.unlink(f'{folder}/{n}')
"""
    assert asked(code) == {folder: [6, 28, True] for folder in ("/tmp", "/dev/shm", "/home/student")}


def test_nothing_is_left_for_the_next(asked):
    code = "found = os.path.exists('/tmp/note')\n[open(f + '/note', 'w').close() for f in ('/tmp', '/dev/shm', '.')]"
    assert asked(code) is False and asked(code) is False
    assert asked("found = [f for f in ('/dev/shm', '.') if 'note' in os.listdir(f)]") == []


def test_the_process_is_alone_without_privilege_and_holds_nothing_open(asked):
    r"""No process of the box may call more: the submission may write into the memory of the others."""
    code = """
import socket
pids = sorted(p for p in os.listdir('/proc') if p.isdigit())
def caps(pid):
    status = dict(line.split(':', 1) for line in open(f'/proc/{pid}/status') if ':' in line)
    return [status[k].strip() for k in ('CapPrm', 'CapEff', 'CapBnd', 'NoNewPrivs', 'Seccomp', 'CapInh', 'CapAmb')]
there = sorted(os.readlink(f'/proc/self/fd/{n}').rsplit('/', 1)[-1].split(':')[0] for n in os.listdir('/proc/self/fd')
    if os.path.exists(f'/proc/self/fd/{n}'))
found = {'user': [os.getuid(), os.getgroups()], 'own': caps('self'), 'all': {pid: caps(pid) for pid in pids},
    'network': [n for _, n in socket.if_nameindex()], 'name': os.uname().nodename,
    'open': there, 'links': os.stat('/proc/self/fd/3').st_nlink}
"""
    found = asked(code)
    assert found["user"][0] == 1000 and found["user"][1] in ([], [1000])
    nothing = ["0" * 16] * 3 + ["1", "2"]
    assert found["own"] == [*nothing, "0" * 16, "0" * 16]
    assert len(found["all"]) == 3 and all(caps[:5] == nothing for caps in found["all"].values()), found
    assert found["network"] == ["lo"] and found["name"] == "box"
    assert set(found["open"]) <= {"null", "output", "socket", "pipe", "fd"} and found["links"] == 1


#: Calls that break kernels, and how they may be refused: 1 is EPERM, 28 that there can be no more of it.
CALLS = {
    "unshare(0x10000000)": (1,),  # a user namespace
    "mount(b'none', b'/tmp', b'tmpfs', 0, None)": (1,),
    "setns(0, 0)": (1,),
    "ptrace(16, 1, 0, 0)": (1,),
    "memfd_create(b'x', 0)": (1,),
    "shmget(0, 1 << 30, 0o1600)": (1,),
    "syscall(425, 8, 0)": (1,),  # io_uring_setup
    "syscall(321, 0, 0, 0)": (1,),  # bpf
    "syscall(56, 0x10000000 | 17, 0, 0, 0, 0)": (1, 28),  # clone with a user namespace
    "syscall(435, (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17), 88)": (1, 28),  # clone3
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="these are the numbers of x86-64")
def test_calls_that_break_kernels_are_refused(asked):
    code = f"""
import ctypes
c, found = ctypes.CDLL(None, use_errno=True), {{}}
for call in {list(CALLS)}:
    ctypes.set_errno(0)
    back = eval('c.' + call, {{'c': c, 'ctypes': ctypes}})
    if back == 0 and 'syscall' in call: os._exit(0)
    found[call] = [back, ctypes.get_errno()]
"""
    found = asked(code)
    assert {call: (back, error in CALLS[call]) for call, (back, error) in found.items()} == dict.fromkeys(
        CALLS, (-1, True)
    ), found


def test_the_environment_is_its_own(asked, place: Place, monkeypatch):
    monkeypatch.setenv("A_TOKEN", "secret")
    found = asked("found = [dict(os.environ), open('/proc/1/environ').read() + open('/proc/self/environ').read()]")
    inside = {k: v for k, v in found[0].items() if k != "TORCHINDUCTOR_CACHE_DIR"}  # torch sets it when imported
    assert inside == boxes.environment(place.slot.lib, False)
    assert "A_TOKEN" not in str(found)


def test_the_questions_are_not_there_before_they_are_asked(place: Place, solved: dict):
    r"""So a cell's error, whose text a student reads, cannot tell them; and the report cannot be changed afterwards."""
    source = """
import os
size = os.fstat(4).st_mode
def lora_truncate(W, r):
    os.ftruncate(3, 0)
    os.write(3, b'{"event": "failed", "cell": 5, "status": "error", "kind": "X", "text": "LEAK"}\\n' * 50)
    raise ValueError("LEAK" + str(W))
class LEAK(Exception): pass
def lora_merge(W, A, B, alpha):
    raise LEAK(str(W))
"""
    result, _ = place.run(source)
    assert "LEAK" not in json.dumps(result)
    assert not any(e["points"] for e in result["exercises"] if e["id"] in ("lora-truncate", "lora-merge"))


def test_nobody_excuses_himself_with_the_grader(place: Place):
    line = json.dumps({"event": "failed", "cell": 19, "status": "infrastructure", "kind": "X", "text": ""})
    result, _ = place.run(f"import os\nx = os.write(3, {line.encode()!r} + b'\\n')\nprint(x)\nlora_truncate = x")
    assert result["status"] == "error"


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_what_comes_out_is_a_regular_file(tmp_path, kind):
    path = tmp_path / "report"
    make = {"symlink": lambda: path.symlink_to("/etc/passwd"), "fifo": lambda: os.mkfifo(path), "directory": path.mkdir}
    make[kind]()
    with pytest.raises(OSError):
        verdict.harvest(path, 100)


def test_a_report_of_anything_is_read():
    content = b'{"event": "cell", "cell": 1}\n[1]\n\xff\xfe\n' + b"[" * 100_000 + b'\n{"event": 1}\n{"event": "x"'
    assert [r["event"] for r in verdict.records(content)] == ["cell"]
