"""The options that the demo has, under the host's names (host file: modules/shared_options.py)."""

import gradio as gr
from modules import shared_items
from modules.options import OptionInfo, categories, options_section

categories.register_category("saving", "Saving images")
categories.register_category("sd", "Stable Diffusion")
categories.register_category("ui", "User Interface")


def templates() -> dict[str, OptionInfo]:
    """Freshly made, because extensions change them."""
    options: dict[str, OptionInfo] = {}
    options |= options_section(("saving-images", "Saving images"), {
        "samples_save": OptionInfo(True, "Always save all generated images"),
        "samples_format": OptionInfo("png", "File format for images", gr.Dropdown, {"choices": ["png"]}),
        "grid_save": OptionInfo(True, "Always save all generated image grids"),
        "return_grid": OptionInfo(True, "Show grid in gallery"),
        "grid_only_if_multiple": OptionInfo(True, "Do not save grids consisting of one picture"),
        "outdir_txt2img_samples": OptionInfo("txt2img-images", "Folder for pictures, inside the data folder"),
        "outdir_txt2img_grids": OptionInfo("txt2img-grids", "Folder for grids, inside the data folder"),
        "enable_pnginfo": OptionInfo(True, "Write infotext to metadata of the generated image"),
    })
    options |= options_section(("sd", "Stable Diffusion"), {
        "sd_model_checkpoint": OptionInfo(
            None, "Stable Diffusion checkpoint", gr.Dropdown, lambda: {"choices": shared_items.list_checkpoint_tiles()},
            refresh=shared_items.refresh_checkpoints, infotext="Model hash",
        ),
        "randn_source": OptionInfo("GPU", "Random number generator source.", gr.Radio, {"choices": ["GPU", "CPU"]},
                                   infotext="RNG").info("both are the CPU here"),
    })
    options |= options_section(("sampler-params", "Sampler parameters"), {
        "hide_samplers": OptionInfo([], "Hide samplers in user interface", gr.CheckboxGroup,
                                    lambda: {"choices": [x.name for x in shared_items.list_samplers()]}),
        "eta_ddim": OptionInfo(0.0, "Eta for DDIM", gr.Slider, {"minimum": 0.0, "maximum": 1.0, "step": 0.01},
                               infotext="Eta DDIM"),
        "eta_ancestral": OptionInfo(1.0, "Eta for k-diffusion samplers", gr.Slider,
                                    {"minimum": 0.0, "maximum": 1.0, "step": 0.01}, infotext="Eta"),
        "sigma_min": OptionInfo(0.0, "sigma min", gr.Number, infotext="Schedule min sigma").info("0 = default"),
        "sigma_max": OptionInfo(0.0, "sigma max", gr.Number, infotext="Schedule max sigma").info("0 = default"),
        "rho": OptionInfo(0.0, "rho", gr.Number, infotext="Schedule rho").info("0 = default"),
        "eta_noise_seed_delta": OptionInfo(0, "Eta noise seed delta", gr.Number, {"precision": 0}, infotext="ENSD"),
        "always_discard_next_to_last_sigma": OptionInfo(False, "Always discard next-to-last sigma",
                                                        infotext="Discard penultimate sigma"),
        "sgm_noise_multiplier": OptionInfo(False, "SGM noise multiplier", infotext="SGM noise multiplier"),
        "uni_pc_variant": OptionInfo("bh1", "UniPC variant", gr.Radio, {"choices": ["bh1", "bh2"]},
                                     infotext="UniPC variant"),
        "uni_pc_order": OptionInfo(3, "UniPC order", gr.Slider, {"minimum": 1, "maximum": 3, "step": 1},
                                   infotext="UniPC order"),
        "uni_pc_lower_order_final": OptionInfo(True, "UniPC lower order final", infotext="UniPC lower order final"),
    })
    options |= options_section(("infotext", "Infotext"), {
        "add_model_hash_to_info": OptionInfo(True, "Add model hash to infotext"),
        "add_model_name_to_info": OptionInfo(True, "Add model name to infotext"),
        "add_version_to_infotext": OptionInfo(True, "Add program version to infotext"),
        "disable_weights_auto_swap": OptionInfo(True, "Disregard checkpoint information from pasted infotext"),
        "infotext_skip_pasting": OptionInfo([], "Disregard fields from pasted infotext", gr.Dropdown,
                                            lambda: {"multiselect": True,
                                                     "choices": shared_items.get_infotext_names()}),
    })
    options |= options_section(("ui", "Live previews"), {
        "live_previews_enable": OptionInfo(True, "Show live previews of the created image"),
        "show_progress_every_n_steps": OptionInfo(4, "Live preview display period", gr.Slider,
                                                  {"minimum": 1, "maximum": 32, "step": 1}).info("in sampling steps"),
    })
    return options
