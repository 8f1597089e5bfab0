"""The notebook runs from its first to its last cell, and is stored without outputs."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
SECONDS = 60


def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = {cell["id"]: cell["outputs"] for cell in notebook.cells if cell.cell_type == "code"}
    assert any("image/png" in output.get("data", {}) for output in outputs["show"])
    assert "random actions" in outputs["compare"][-1]["text"]


def test_the_notebook_has_no_outputs() -> None:
    code = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert all(line.startswith("# ") for line in code[0].source.splitlines())  # nothing is installed unasked
