"""Folders (host file: modules/paths_internal.py). `use` sets them before anything else of the host is imported."""

from pathlib import Path

modules_path = str(Path(__file__).resolve().parent)
script_path = str(Path(modules_path).parent)
"""the host's own folder: demo/"""

repository_path = str(Path(script_path).parent)
models_path = str(Path(repository_path) / "models")
extensions_dir = repository_path
data_path = str(Path("outputs").resolve())
"""where pictures, config.json, ui-config.json and params.txt go"""

default_output_dir = data_path


def use(data_dir: str) -> None:
    """Makes `data_dir` the folder everything is written to."""
    global data_path, default_output_dir
    data_path = default_output_dir = str(Path(data_dir).resolve())
    Path(data_path).mkdir(parents=True, exist_ok=True)
