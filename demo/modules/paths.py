"""Folders (host files: modules/paths.py, paths_internal.py). `use` comes before all that writes files."""

from pathlib import Path

script_path = str(Path(__file__).resolve().parents[1])
"""the host's own folder: demo/"""

repository_path = str(Path(script_path).parent)
models_path = str(Path(repository_path) / "models")
data_path = str(Path("outputs").resolve())
"""where pictures, config.json, ui-config.json and params.txt go"""


def use(data_dir: str) -> None:
    """Makes `data_dir` the folder everything is written to."""
    global data_path
    data_path = str(Path(data_dir).resolve())
    Path(data_path).mkdir(parents=True, exist_ok=True)
