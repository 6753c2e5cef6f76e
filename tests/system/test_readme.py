"""The README's Python runs as it stands, top to bottom, and does what its comments say."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_readme_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert len(blocks) == 3
    module = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    printed: list[object] = []
    module.__dict__["print"] = printed.append
    for block in blocks:
        exec(compile(block, "README.md", "exec", dont_inherit=True), module.__dict__)
    shape, line, climbed = printed
    assert shape == (4, 5)
    print(shape, line, climbed)
    assert float(line) > 0.4  # type: ignore[arg-type]
    assert float(climbed) > 0.3  # type: ignore[arg-type]


def test_readme_commands_exist() -> None:
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", text)):
        assert re.search(rf"^[a-z -]*\b{target}\b.*:", makefile, flags=re.M), target
