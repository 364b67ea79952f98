"""The type checker follows what one project takes from another, as `make lint` runs it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ".ci/check_types.py"

FILES = {
    "detrex_lite/__init__.py": "",
    "projects/__init__.py": "",
    "projects/first/__init__.py": "",
    "projects/first/modeling.py": """
class First:
    def __init__(self, *, num_queries: int) -> None:
        self.num_queries = num_queries
""",
    "projects/second/__init__.py": "",
    "projects/second/modeling.py": """
from detrex_lite.projects.first.modeling import First

First(num_queries="many")
First(num_querys=3)
""",
    "configs/common/model.py": """
from detrex_lite.projects.first.modeling import Furst
""",
    "tools/show.py": """
import detrex_lite.projects.third.modeling

print(undefined)
""",
}
REPORTED = {
    'projects/second/modeling.py:4: error: Argument "num_queries" to "First" has incompatible type "str"',
    'projects/second/modeling.py:5: error: Unexpected keyword argument "num_querys" for "First"',
    'configs/common/model.py:2: error: Module "detrex_lite.projects.first.modeling" has no attribute "Furst"',
    'tools/show.py:2: error: Cannot find implementation or library stub for module named "detrex_lite.projects.third',
    'tools/show.py:4: error: Name "undefined" is not defined',
}


def check(root: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT], cwd=root, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path):
    """A small one, with the settings and the script of this one."""
    (tmp_path / ".ci").mkdir()
    for name in ("pyproject.toml", SCRIPT):
        shutil.copy(ROOT / name, tmp_path / name)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_wrong_calls_between_projects_are_reported_where_they_are(checkout):
    done = check(checkout)
    lines = done.stdout.splitlines()
    missing = {wanted for wanted in REPORTED if not any(line.startswith(wanted) for line in lines)}
    assert missing == set(), done.stdout + done.stderr
    assert done.returncode == 1


def test_a_second_check_sees_what_has_been_added_and_removed(checkout):
    check(checkout)
    shutil.rmtree(checkout / "projects/second")
    shutil.rmtree(checkout / "configs/common")
    (checkout / "tools/show.py").unlink()
    (checkout / "detrex_lite/late.py").write_text("from detrex_lite.projects.first.modeling import First\nFirst()\n")
    done = check(checkout)
    assert 'detrex_lite/late.py:2: error: Missing named argument "num_queries"' in done.stdout, done.stderr
    (checkout / "detrex_lite/late.py").unlink()
    done = check(checkout)
    assert done.returncode == 0, done.stdout + done.stderr
