"""Which extensions there are (host file: modules/extensions.py): the folders given with --extension."""

from dataclasses import dataclass
from pathlib import Path

from modules import paths_internal
from modules.shared_cmd_options import cmd_opts


@dataclass(frozen=True)
class Extension:
    name: str
    path: str
    enabled: bool = True

    def list_files(self, subdir: str, suffix: str) -> list[Path]:
        """Files of one of the extension's folders (scripts, javascript), by name."""
        folder = Path(self.path) / subdir
        if not folder.is_dir():
            return []
        return [f for f in sorted(folder.iterdir()) if f.is_file() and f.suffix.lower() == suffix]


def active() -> list[Extension]:
    folders = cmd_opts.extension or [paths_internal.repository_path]
    return [Extension(name=Path(f).resolve().name, path=str(Path(f).resolve())) for f in folders]
