"""`import launch`, as install.py of an extension does it (host file: launch.py)."""

from modules.launch_utils import git_tag, is_installed, run, run_pip

__all__ = ["git_tag", "is_installed", "run", "run_pip"]
