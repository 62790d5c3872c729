"""The options that the demo has, under the host's names (host file: modules/shared_options.py)."""

import gradio as gr
from modules.options import OptionInfo, categories, options_section

categories.register_category("saving", "Saving images")
categories.register_category("sd", "Stable Diffusion")
categories.register_category("ui", "User Interface")


def templates() -> dict[str, OptionInfo]:
    """Freshly made, because extensions change them."""
    from modules import sd_models

    saving = options_section(("saving-images", "Saving images"), {
        "samples_save": OptionInfo(True, "Always save all generated images"),
        "grid_save": OptionInfo(True, "Always save all generated image grids"),
        "return_grid": OptionInfo(True, "Show grid in gallery"),
        "grid_only_if_multiple": OptionInfo(True, "Do not save grids consisting of one picture"),
        "outdir_txt2img_samples": OptionInfo("txt2img-images", "Folder for pictures, inside the data folder"),
        "outdir_txt2img_grids": OptionInfo("txt2img-grids", "Folder for grids, inside the data folder"),
        "enable_pnginfo": OptionInfo(True, "Write infotext to metadata of the generated image"),
    })
    model = options_section(("sd", "Stable Diffusion"), {
        "sd_model_checkpoint": OptionInfo(
            None, "Stable Diffusion checkpoint", gr.Dropdown, lambda: {"choices": sd_models.checkpoint_tiles()},
            refresh=sd_models.list_models, infotext="Model hash",
        ),
        "randn_source": OptionInfo("GPU", "Random number generator source.", gr.Radio, {"choices": ["GPU", "CPU"]},
                                   infotext="RNG").info("both are the CPU here"),
    })
    sampling = options_section(("sampler-params", "Sampler parameters"), {
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
    })
    previews = options_section(("ui", "Live previews"), {
        "live_previews_enable": OptionInfo(True, "Show live previews of the created image"),
        "show_progress_every_n_steps": OptionInfo(4, "Live preview display period", gr.Slider,
                                                  {"minimum": 1, "maximum": 32, "step": 1}).info("in sampling steps"),
    })
    return saving | model | sampling | previews
