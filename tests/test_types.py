"""The type checker, as `make lint` runs it, follows imports between projects."""

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
    """A small checkout with the settings and the script of this repository."""
    (tmp_path / ".ci").mkdir()
    for name in ("pyproject.toml", SCRIPT):
        shutil.copy(ROOT / name, tmp_path / name)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_wrong_calls_between_projects_are_reported_with_file_and_line(checkout):
    result = check(checkout)
    lines = result.stdout.splitlines()
    missing = {message for message in REPORTED if not any(line.startswith(message) for line in lines)}
    assert missing == set(), result.stdout + result.stderr
    assert result.returncode == 1


def test_a_second_check_notices_added_and_removed_files(checkout):
    check(checkout)
    shutil.rmtree(checkout / "projects/second")
    shutil.rmtree(checkout / "configs/common")
    (checkout / "tools/show.py").unlink()
    (checkout / "detrex_lite/late.py").write_text("from detrex_lite.projects.first.modeling import First\nFirst()\n")
    result = check(checkout)
    assert 'detrex_lite/late.py:2: error: Missing named argument "num_queries"' in result.stdout, result.stderr
    (checkout / "detrex_lite/late.py").unlink()
    result = check(checkout)
    assert result.returncode == 0, result.stdout + result.stderr
