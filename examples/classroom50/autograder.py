r"""Classroom 50: lies in CLASSROOM/autograders/ASSIGNMENT/, and is run in the student's checkout after each submission.

Beside it lie the assignment's notebook and the course as a wheel (`pip wheel --no-deps .` makes it). In a container
bubblewrap can make no box, so the assignment runs on the host:

    "runtime": {"runs-on": "ubuntu-latest", "python": "3.12", "apt": ["bubblewrap"]}

Written after Classroom 50's page "Advanced Autograding" and not tried there yet. What lies here is published with the
classroom's pages, the answers in the wheel too: it is for feedback, not for an exam.
"""

import subprocess
import sys
from pathlib import Path

here = Path(__file__).resolve().parent
(notebook,), (wheel,) = here.glob("*.ipynb"), here.glob("coursekit_finetuning-*.whl")
# Ubuntu 24.04 lets no program make a user namespace that has no AppArmor profile for it.
if Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").exists():
    subprocess.run(["sudo", "sysctl", "kernel.apparmor_restrict_unprivileged_userns=0"], check=True)
# -P: outside the box nothing is imported from the checkout, where this runs.
python = [sys.executable, "-P", "-m"]
subprocess.run([*python, "pip", "install", "--quiet", f"{wheel}[notebooks]"], check=True)
course = [*python, "coursekit.cli"]
subprocess.run([*course, "fetch"], check=True)
command = [*course, "grade", "autograder", ".", "--notebook", str(notebook), "--result", "result.json"]
sys.exit(subprocess.run(command, check=False).returncode)
