"""Memory saving modes, which a model of this size does not have (host file: modules/lowvram.py)."""


def is_enabled(sd_model: object) -> bool:
    return False


def send_everything_to_cpu() -> None:
    return None
