"""Lists that options show (host file: modules/shared_items.py); imports are late, half of the host being needed."""


def list_checkpoint_tiles(use_short: bool = False) -> list[str]:
    from modules import sd_models

    return sd_models.checkpoint_tiles(use_short)


def refresh_checkpoints() -> None:
    from modules import sd_models

    sd_models.list_models()


def list_samplers() -> list:
    from modules import sd_samplers

    return sd_samplers.all_samplers


def get_infotext_names() -> list[str]:
    """Every name that infotext may use: of options, and of the fields of all tabs."""
    from modules import infotext_utils, shared

    names = {info.infotext: None for info in shared.opts.data_labels.values() if info.infotext}
    for tab in infotext_utils.paste_fields.values():
        names |= {name: None for _, name in tab["fields"] or [] if isinstance(name, str)}
    return list(names)
