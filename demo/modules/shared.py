"""The host's globals (host file: modules/shared.py)."""

import sys
from types import ModuleType
from typing import Any

from modules import options, paths, shared_options, styles
from modules.devices import device
from modules.options import OptionInfo, options_section
from modules.shared_cmd_options import cmd_opts
from modules.shared_state import State

__all__ = ["OptionInfo", "cmd_opts", "demo", "device", "options_section", "opts", "state"]

opts = options.Options({})
state = State()
demo: Any = None
"""the gradio Blocks of the page, once it is made"""

config_filename = ""
prompt_styles: styles.StyleDatabase
"""of styles.csv; there from load_options on"""


def load_options() -> None:
    """Forgets what extensions have added, and reads config.json and styles.csv of the data folder."""
    global config_filename, prompt_styles
    config_filename = f"{paths.data_path}/config.json"
    opts.data_labels = shared_options.templates()
    opts.load(config_filename)
    prompt_styles = styles.StyleDatabase(f"{paths.data_path}/styles.csv")


class _Shared(ModuleType):
    """Makes `shared.sd_model` load the checkpoint when it is first asked for, as in the host."""

    @property
    def sd_model(self) -> Any:
        from modules import sd_models

        return sd_models.get_sd_model()


sys.modules[__name__].__class__ = _Shared
