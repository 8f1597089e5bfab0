"""The README's code runs as it stands."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_python_of_the_readme_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    # One after the other in one namespace, with 3 steps for 100 and 2 environments for 32 to save time.
    code = "\n".join(blocks).replace("range(100)", "range(3)").replace("num_envs=32", "num_envs=2")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["imagined"].frames.shape == (1, 10, 64, 64, 3)  # type: ignore[attr-defined]
    assert len(names["branches"]) == 64  # type: ignore[arg-type]
