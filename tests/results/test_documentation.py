"""The commands and the Python code of "Find and compare" run as they are printed."""

import re
import shlex
from pathlib import Path

from PIL import Image

from milan.cli import describe, export, find
from milan.experiments import __main__ as experiments

PAGE = Path(__file__).parents[2] / "docs" / "find_and_compare.md"
PROGRAMS = {
    "describe.py": describe.main,
    "milan.cli.find": find.main,
    "milan.experiments": experiments.main,
    "milan.cli.export": export.main,
}


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (80, 60), "red").save("photo.png")
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert {kind for kind, _ in blocks} == {"sh", "python"}
    for kind, code in blocks:
        if kind == "python":
            exec(compile(code, PAGE.name, "exec"), {})
        else:
            for line in code.splitlines():
                name, *words = [word for word in shlex.split(line)[1:] if word != "-m"]
                assert PROGRAMS[name](words) == 0, line
    written = {
        "runs/find/found.csv",
        "runs/photo/page/index.html",
        "runs/match/pairs.csv",
        "runs/objects/export/hub/README.md",
        "runs/objects/export/milannotations/annotations.csv",
        "runs/objects/export/csv/descriptions.csv",
        "runs/objects/export/single_file/page.html",
    }
    assert [file for file in sorted(written) if not Path(file).is_file()] == []
