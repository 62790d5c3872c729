"""Brings the host up: command line, folders, options, checkpoint, scripts (host files: initialize.py, webui.py)."""

import argparse

from modules import paths_internal, shared_cmd_options


def parse_command_line(argv: list[str]) -> None:
    """Lets extensions add their arguments (preload.py), then parses for good."""
    from modules import script_loading

    finder = argparse.ArgumentParser(add_help=False)
    finder.add_argument("--extension", action="append")
    folders = finder.parse_known_args(argv)[0].extension or [paths_internal.repository_path]
    parser = shared_cmd_options.make_parser()
    script_loading.preload_extensions(folders, parser)
    shared_cmd_options.use(parser, argv)
    cmd_opts = shared_cmd_options.cmd_opts
    paths_internal.use(cmd_opts.data_dir)
    if getattr(cmd_opts, "oms_models_dir", "") is None and cmd_opts.model != parser.get_default("model"):
        cmd_opts.oms_models_dir = cmd_opts.model  # a model folder from elsewhere brings its own OMS module along


def initialize(argv: list[str]) -> None:
    """May be called again for a fresh host in the same process; modules of the host stay loaded, as on Reload UI."""
    parse_command_line(argv)
    from modules import extra_networks, script_callbacks, scripts, sd_models, shared

    script_callbacks.call("script_unloaded")
    shared.load_options()
    shared.state.__init__()
    sd_models.list_models()
    scripts.load_scripts()
    extra_networks.extra_network_registry.clear()
    extra_networks.register_extra_network(extra_networks.ExtraNetworkLora())
    sd_models.reload_model_weights()
    # AUTOMATIC1111's way (initialize_util.py); Forge loads a checkpoint only when the next picture is made.
    shared.opts.onchange("sd_model_checkpoint", sd_models.reload_model_weights, call=False)
