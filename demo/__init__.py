"""A miniature Stable Diffusion WebUI around the embedded model: `python -m demo`.

It exists to run the extension UNCHANGED where no real WebUI and no download is at hand: for a first look, and as the
host of the tests. `demo/modules/` is the host's `modules` package in small. `demo.server.start` puts `demo/` on
sys.path, so that `from modules import scripts` finds it; the files bear the names of the host's, and each says in its
first line which host file it stands for. It behaves as the measured hosts do, quirks included:

- hooks in their order, ui() three times for each tab, scripts loaded under a bare file name that is not in sys.modules,
  with the extension's folder on sys.path only meanwhile;
- an exception in ANY hook is printed and swallowed; one outside of hooks is HTTP 500 {"error", "detail", "body",
  "errors"}, and red text in the page;
- the noise of process_before_every_sampling may be changed in place; p.modified_noise counts only with
  `--host-style forge`, where it wins and is cleared, and where hooks run in inference mode;
- get_sigmas writes to infotext; timestep samplers have only get_timesteps, whose first step is at [-1]; UniPC starts at
  999; DDIM with one step calls no model;
- API arguments are filled from what ui() makes and are never checked; a dict of arguments is a KeyError; bool("False")
  is True; override_settings that opts.data lacks are not set back; params.txt is written before sampling.

What it leaves out: img2img and everything that starts from a picture (its scripts' ui() runs, unseen; Hires. fix is
there for the API, with the upscaler "Latent"), upscaling and face restoration, refiner, ControlNet, textual inversion,
hypernetworks, styles (taken and ignored), clip skip, tiling, VAE choice, prompt editing, alternation and AND (the
prompt stays what it is before the first step), most of the X/Y/Z plot's own axes, sampler and seed as scripts of their
own, the samplers that neither are short nor come with diffusers (DPM2, DPM++ SDE, DPM fast and adaptive, LMS, Restart,
DDIM CFG++), the schedules Align Your Steps and Beta, Zero Terminal SNR, v-prediction and flow models, half precision,
GPUs and Forge's memory management (forge_objects), users and passwords, other hosts than this machine, Forge's wish
for "styles" beside "infotext", installing of extensions (install.py is not run; `launch` is there for it), and JPEG.
Defaults are the embedded model's: 256x256, 20 steps.
"""
