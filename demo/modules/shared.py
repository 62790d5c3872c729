"""The host's globals (host file: modules/shared.py)."""

import sys
from types import ModuleType
from typing import Any

from modules import devices, options, paths_internal, shared_options, styles
from modules.options import OptionHTML, OptionInfo, options_section
from modules.shared_cmd_options import cmd_opts
from modules.shared_state import State

__all__ = ["OptionHTML", "OptionInfo", "cmd_opts", "demo", "device", "models_path", "options_section", "opts", "state"]

device = devices.device
models_path = paths_internal.models_path
options_templates: dict[str, OptionInfo] = shared_options.templates()
opts = options.Options(options_templates)
state = State()
demo: Any = None
"""the gradio Blocks of the page, once it is made"""

config_filename = ""
prompt_styles: styles.StyleDatabase
"""of styles.csv; there from load_options on"""


def load_options() -> None:
    """Forgets what extensions have added, and reads config.json and styles.csv of the data folder."""
    global config_filename, options_templates, prompt_styles
    config_filename = f"{paths_internal.data_path}/config.json"
    options_templates = opts.data_labels = shared_options.templates()
    opts.load(config_filename)
    prompt_styles = styles.StyleDatabase(f"{paths_internal.data_path}/styles.csv")


class _Shared(ModuleType):
    """Makes `shared.sd_model` load the checkpoint when it is first asked for, as in the host."""

    @property
    def sd_model(self) -> Any:
        from modules import sd_models

        return sd_models.model_data.get_sd_model()

    @sd_model.setter
    def sd_model(self, value: Any) -> None:
        from modules import sd_models

        sd_models.model_data.sd_model = value


sys.modules[__name__].__class__ = _Shared
