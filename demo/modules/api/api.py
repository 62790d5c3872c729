"""The HTTP API (host files: modules/api/api.py, models.py). Fields that a body does not know it ignores."""

import base64
import io
import time
from contextlib import closing
from secrets import compare_digest
from typing import Any

import gradio as gr
from fastapi import Body, Depends, FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from modules import (
    errors,
    extra_networks,
    images,
    infotext_utils,
    script_callbacks,
    scripts,
    sd_models,
    sd_samplers,
    sd_schedulers,
    shared,
)
from modules.call_queue import queue_lock
from modules.processing import (
    StableDiffusionProcessing,
    StableDiffusionProcessingImg2Img,
    StableDiffusionProcessingTxt2Img,
    process_images,
)
from modules.shared import opts
from PIL import Image
from pydantic import BaseModel, create_model

_TYPES = {
    "prompt": str, "negative_prompt": str, "styles": list, "seed": int, "subseed": int, "subseed_strength": float,
    "seed_resize_from_h": int, "seed_resize_from_w": int, "sampler_name": str, "scheduler": str, "batch_size": int,
    "n_iter": int, "steps": int, "cfg_scale": float, "width": int, "height": int, "do_not_save_samples": bool,
    "do_not_save_grid": bool, "eta": float, "denoising_strength": float, "override_settings": dict,
    "override_settings_restore_afterwards": bool, "disable_extra_networks": bool, "enable_hr": bool,
    "hr_scale": float,
}
"""Fields of p that a request may set, with their types; every one may also be null."""
_defaults = StableDiffusionProcessingTxt2Img.__dataclass_fields__

StableDiffusionTxt2ImgProcessingAPI = create_model(
    "StableDiffusionProcessingTxt2Img",
    **{name: (kind | None, _defaults[name].default) for name, kind in _TYPES.items()},
    sampler_index=(str | None, "Euler"),
    script_name=(str | None, None),
    script_args=(list, []),
    send_images=(bool, True),
    save_images=(bool, False),
    alwayson_scripts=(dict[str, Any], {}),
    force_task_id=(str | None, None),
    infotext=(str | None, None),
)


class StableDiffusionImg2ImgProcessingAPI(StableDiffusionTxt2ImgProcessingAPI):  # type: ignore[misc, valid-type]
    denoising_strength: float | None = 0.75
    init_images: list[str]
    mask: str | None = None


class PNGInfoRequest(BaseModel):
    image: str


def dump(model: BaseModel, **kwargs: Any) -> dict[str, Any]:
    """A model as a dict, in either pydantic."""
    return model.model_dump(**kwargs) if hasattr(model, "model_dump") else model.dict(**kwargs)


def decode_base64_to_image(encoding: str) -> Image.Image:
    if encoding.startswith("data:image/"):
        encoding = encoding.split(",", 1)[1]
    try:
        return images.read(io.BytesIO(base64.b64decode(encoding)))
    except Exception as e:
        raise HTTPException(status_code=500, detail="Invalid encoded image") from e


def encode_pil_to_base64(image: Image.Image) -> str:
    return base64.b64encode(images.png_bytes(image)).decode("ascii")


def api_middleware(app: FastAPI) -> None:
    """Every exception as JSON {"error", "detail", "body", "errors"}; HTTPException keeps its status, others are 500."""

    def answer(request: Request, e: Exception) -> JSONResponse:
        content = {
            "error": type(e).__name__, "detail": vars(e).get("detail", ""), "body": vars(e).get("body", ""),
            "errors": str(e),
        }
        if not isinstance(e, HTTPException):
            errors.report(f"API error: {request.method}: {request.url} {content}", exc_info=True)
        return JSONResponse(status_code=vars(e).get("status_code", 500), content=jsonable_encoder(content))

    @app.middleware("http")
    async def exception_handling(request: Request, call_next: Any) -> Any:
        try:
            return await call_next(request)
        except Exception as e:
            return answer(request, e)

    @app.exception_handler(HTTPException)
    async def http_exception_handler(request: Request, e: HTTPException) -> JSONResponse:
        return answer(request, e)


class Api:
    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.passwords = dict(pair.split(":") for pair in (shared.cmd_opts.api_auth or "").split(",") if pair)
        api_middleware(app)
        for method, path, endpoint in (
            ("POST", "txt2img", self.text2imgapi),
            ("POST", "img2img", self.img2imgapi),
            ("POST", "png-info", self.pnginfoapi),
            ("GET", "progress", self.progressapi),
            ("POST", "interrupt", self.interruptapi),
            ("POST", "skip", self.skip),
            ("GET", "options", self.get_config),
            ("POST", "options", self.set_config),
            ("GET", "cmd-flags", self.get_cmd_flags),
            ("GET", "samplers", self.get_samplers),
            ("GET", "schedulers", self.get_schedulers),
            ("GET", "sd-models", self.get_sd_models),
            ("POST", "refresh-checkpoints", self.refresh_checkpoints),
            ("GET", "loras", self.get_loras),
            ("GET", "scripts", self.get_scripts_list),
            ("GET", "script-info", self.get_script_info),
        ):
            self.add_api_route(f"/sdapi/v1/{path}", endpoint, methods=[method], response_model=None)
        with gr.Blocks():  # components can only be made inside one
            self.default_script_args = {
                runner: self.init_default_script_args(runner)
                for runner in (scripts.scripts_txt2img, scripts.scripts_img2img)
            }

    def add_api_route(self, path: str, endpoint: Any, **more: Any) -> None:
        """A route that asks for a password where --api-auth does."""
        if self.passwords:
            more["dependencies"] = [Depends(self.auth)]
        self.app.add_api_route(path, endpoint, **more)

    def auth(self, given: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008 - FastAPI's way
        password = self.passwords.get(given.username)
        if password is None or not compare_digest(given.password.encode(), password.encode()):
            raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})

    @staticmethod
    def init_default_script_args(runner: scripts.ScriptRunner) -> list:
        """Script arguments of a request that names no script: from the components that ui() makes.

        Runs every ui() twice more, as the host does; ui-config.json has no say here.
        """
        script_args = [None] * max([1, *(script.args_to for script in runner.scripts)])
        script_args[0] = 0
        for script in runner.scripts:
            if script.ui(script.is_img2img):
                values = [component.value for component in script.ui(script.is_img2img)]
                script_args[script.args_from : script.args_to] = values
        return script_args

    @staticmethod
    def get_script(name: str | None, choices: list[scripts.Script]) -> scripts.Script | None:
        """The script of this title, in any case."""
        if not name:
            return None
        titles = [script.title().lower() for script in choices]
        if name.lower() not in titles:
            raise HTTPException(status_code=422, detail=f"Script '{name}' not found")
        return choices[titles.index(name.lower())]

    def init_script_args(
        self, request: Any, selected: scripts.Script | None, from_infotext: dict[int, Any], runner: scripts.ScriptRunner
    ) -> list:
        """Defaults, then what infotext gives, then what the request gives; never checked for type or range."""
        script_args = self.default_script_args[runner].copy()
        for index, value in from_infotext.items():
            script_args[index] = value
        if selected is not None:
            script_args[selected.args_from : selected.args_to] = request.script_args
            script_args[0] = runner.selectable_scripts.index(selected) + 1
        for name, given in (request.alwayson_scripts or {}).items():
            script = self.get_script(name, runner.scripts)
            if script is None:
                raise HTTPException(status_code=422, detail=f"always on script {name} not found")
            if not script.alwayson:
                raise HTTPException(
                    status_code=422, detail="Cannot have a selectable script in the always on scripts params"
                )
            if "args" in given:
                for i in range(min(script.args_to - script.args_from, len(given["args"]))):
                    script_args[script.args_from + i] = given["args"][i]
        return script_args

    def apply_infotext(self, request: Any) -> dict[int, Any]:
        """Fills fields that the request leaves out from its "infotext"; script arguments by index are returned.

        A text that becomes a bool by bool() is True even where it says "False": the host's behaviour, which scripts
        avoid by giving a function in infotext_fields.
        """
        if not request.infotext:
            return {}
        fields = infotext_utils.paste_fields["txt2img"]["fields"]
        given = dump(request, exclude_unset=True)
        params = infotext_utils.parse_generation_parameters(request.infotext)

        def value_of(field: infotext_utils.PasteField, kind: type) -> Any:
            value = field.function(params) if field.function else params.get(field.label)
            if value is None or kind is type(None):
                return None
            if isinstance(value, dict) and value.get("__type__") == "generic_update":  # gradio 3's mark alone
                value = value.get("value")
            return value if value is None or isinstance(value, kind) else kind(value)

        for field in fields:
            if field.api and field.api not in given:
                value = value_of(field, _TYPES.get(field.api, type(field.component.value)))
                if value is not None:
                    setattr(request, field.api, value)
        request.override_settings = request.override_settings or {}
        for _, name, value in infotext_utils.get_override_settings(params):
            request.override_settings.setdefault(name, value)
        positions = {component: i for i, component in enumerate(scripts.scripts_txt2img.inputs)}
        values = {
            positions[field.component]: value_of(field, type(field.component.value))
            for field in fields
            if field.component in positions
        }
        return {i: value for i, value in values.items() if value is not None}

    def text2imgapi(self, txt2imgreq: StableDiffusionTxt2ImgProcessingAPI) -> dict:  # type: ignore[valid-type]
        from_infotext = self.apply_infotext(txt2imgreq)
        runner = scripts.scripts_txt2img
        return self._generate(StableDiffusionProcessingTxt2Img, "txt2img", txt2imgreq, runner, from_infotext, {})

    def img2imgapi(self, img2imgreq: StableDiffusionImg2ImgProcessingAPI) -> dict:
        """There is no infotext here."""
        given = {"init_images": [decode_base64_to_image(image) for image in img2imgreq.init_images]}
        if img2imgreq.mask:
            given["mask"] = decode_base64_to_image(img2imgreq.mask)
        runner = scripts.scripts_img2img
        return self._generate(StableDiffusionProcessingImg2Img, "img2img", img2imgreq, runner, {}, given)

    def _generate(
        self, kind: type[StableDiffusionProcessing], tab: str, request: Any, runner: scripts.ScriptRunner,
        from_infotext: dict[int, Any], given: dict[str, Any],
    ) -> dict:
        selected = self.get_script(request.script_name, runner.selectable_scripts)
        sampler, scheduler = sd_samplers.get_sampler_and_scheduler(
            request.sampler_name or request.sampler_index, request.scheduler
        )
        script_args = self.init_script_args(request, selected, from_infotext, runner)
        arguments = {name: getattr(request, name) for name in _TYPES if name in kind.__dataclass_fields__} | given
        arguments |= {
            "sampler_name": sampler,
            "scheduler": request.scheduler or (scheduler if scheduler != "Automatic" else None),
            "do_not_save_samples": not request.save_images,
            "do_not_save_grid": not request.save_images,
        }
        with queue_lock, closing(kind(**arguments)) as p:
            p.is_api = True
            p.scripts = runner
            shared.state.begin(job=f"scripts_{tab}")
            try:
                p.script_args = tuple(script_args)
                processed = runner.run(p, *p.script_args) if selected is not None else process_images(p)
            finally:
                shared.state.end()
        pictures = [encode_pil_to_base64(image) for image in processed.images] if request.send_images else []
        return {"images": pictures, "parameters": jsonable_encoder(dump(request)), "info": processed.js()}

    def pnginfoapi(self, req: PNGInfoRequest) -> dict:
        text, items = images.read_info_from_image(decode_base64_to_image(req.image.strip()))
        params = infotext_utils.parse_generation_parameters(text or "")
        script_callbacks.call("infotext_pasted", text or "", params)
        return {"info": text or "", "items": items, "parameters": params}

    def progressapi(self, skip_current_image: bool = False) -> dict:
        state = shared.state
        done = state.progress()
        eta = 0.0
        if done > 0:
            passed = time.time() - state.time_start
            eta = passed / done - passed
            state.set_current_image()
        picture = None if skip_current_image or done == 0 else state.current_image
        return {
            "progress": done, "eta_relative": eta, "state": state.dict(), "textinfo": state.textinfo,
            "current_image": encode_pil_to_base64(picture) if picture else None,
        }

    def interruptapi(self) -> dict:
        shared.state.interrupt()
        return {}

    def skip(self) -> None:
        shared.state.skip()

    def get_config(self) -> dict:
        defaults = {key: info.default for key, info in opts.data_labels.items() if not info.do_not_save}
        return {**defaults, **opts.data}

    def set_config(self, req: dict[str, Any] = Body(...)) -> None:  # noqa: B008 - FastAPI's way
        name = req.get("sd_model_checkpoint")
        if name is not None and name not in sd_models.checkpoint_aliases:
            raise RuntimeError(f"model {name!r} not found")
        for key, value in req.items():
            opts.set(key, value, is_api=True)
        opts.save(shared.config_filename)

    def get_cmd_flags(self) -> dict:
        return vars(shared.cmd_opts)

    def get_samplers(self) -> list[dict]:
        return [
            {"name": s.name, "aliases": s.aliases, "options": {k: str(v) for k, v in s.options.items()}}
            for s in sd_samplers.all_samplers
        ]

    def get_schedulers(self) -> list[dict]:
        names = ("name", "label", "aliases", "default_rho", "need_inner_model")
        return [{name: getattr(s, name) for name in names} for s in sd_schedulers.schedulers]

    def get_sd_models(self) -> list[dict]:
        return [
            {"title": x.title, "model_name": x.model_name, "hash": x.shorthash, "sha256": x.sha256,
             "filename": x.filename, "config": None}
            for x in sd_models.checkpoints_list.values()
        ]

    def refresh_checkpoints(self) -> None:
        sd_models.list_models()

    def get_loras(self) -> list[dict]:
        return [
            {"name": name, "alias": name, "path": str(path), "metadata": {}}
            for name, path in extra_networks.list_loras().items()
        ]

    def get_scripts_list(self) -> dict:
        runners = {"txt2img": scripts.scripts_txt2img, "img2img": scripts.scripts_img2img}
        return {tab: [s.name for s in runner.scripts if s.name is not None] for tab, runner in runners.items()}

    def get_script_info(self) -> list[dict]:
        runners = (scripts.scripts_txt2img, scripts.scripts_img2img)
        return [s.api_info for runner in runners for s in runner.scripts if s.api_info is not None]
