"""The HTTP API (host files: modules/api/api.py, models.py). Fields that a body does not know it ignores."""

import base64
import io
import time
from contextlib import closing
from dataclasses import fields
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

_NOT_OURS = ("sd_model", "outpath_samples", "outpath_grids", "extra_generation_params")
"""fields of p that no request sets"""


def request_model(kind: type[StableDiffusionProcessing], **more: Any) -> type[BaseModel]:
    """The body of a request for a kind of processing: its fields with their defaults; each may also be null."""
    of_p = {f.name: (f.type | None, f.default) for f in fields(kind) if f.name not in (*_NOT_OURS, *more)}
    return create_model(
        kind.__name__,
        **of_p,
        sampler_index=(str | None, "Euler"),
        script_name=(str | None, None),
        script_args=(list, []),
        send_images=(bool, True),
        save_images=(bool, False),
        alwayson_scripts=(dict[str, Any], {}),
        infotext=(str | None, None),
        **more,
    )


StableDiffusionTxt2ImgProcessingAPI = request_model(StableDiffusionProcessingTxt2Img)
StableDiffusionImg2ImgProcessingAPI = request_model(
    StableDiffusionProcessingImg2Img, init_images=(list[str], ...), mask=(str | None, None)
)


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
    return base64.b64encode(images.encode_pil_to_bytes(image)).decode("ascii")


def get_script(name: str, choices: list[scripts.Script]) -> scripts.Script:
    """The script of this title, in any case."""
    for script in choices:
        if script.title().lower() == name.lower():
            return script
    raise HTTPException(status_code=422, detail=f"Script '{name}' not found")


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
            ("POST", "interrupt", lambda: shared.state.interrupt() or {}),
            ("POST", "skip", shared.state.skip),
            ("GET", "options", self.get_config),
            ("POST", "options", self.set_config),
            ("GET", "cmd-flags", lambda: vars(shared.cmd_opts)),
            ("GET", "samplers", self.get_samplers),
            ("GET", "schedulers", self.get_schedulers),
            ("GET", "sd-models", self.get_sd_models),
            ("POST", "refresh-checkpoints", sd_models.list_models),
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
        script_args = [0, *[None] * (len(runner.inputs) - 1)]
        for script in runner.scripts:
            if script.ui(script.is_img2img):
                values = [component.value for component in script.ui(script.is_img2img)]
                script_args[script.args_from : script.args_to] = values
        return script_args

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
            script = get_script(name, runner.scripts)
            if not script.alwayson:
                raise HTTPException(status_code=422, detail=f"Script '{name}' is one to select, not always on")
            for i in range(min(script.args_to - script.args_from, len(given.get("args", ())))):
                script_args[script.args_from + i] = given["args"][i]
        return script_args

    def apply_infotext(self, request: Any) -> tuple[Any, dict[int, Any]]:
        """The request with what it leaves out from its "infotext", and script arguments by index.

        A text that becomes a bool by bool() is True even where it says "False": the host's behaviour, which scripts
        avoid by giving a function in infotext_fields.
        """
        if not request.infotext:
            return request, {}
        params = infotext_utils.parse_generation_parameters(request.infotext)
        positions = {component: i for i, component in enumerate(scripts.scripts_txt2img.inputs)}
        from_text, script_args = {}, {}
        for field in infotext_utils.txt2img_fields:
            value = field.read(params)
            if isinstance(value, dict) and value.get("__type__") == "generic_update":  # gradio 3's mark alone
                value = value.get("value")
            if value is None:
                continue
            if field.api:
                from_text[field.api] = value
            kind = type(field.component.value)
            if field.component in positions and kind is not type(None):
                script_args[positions[field.component]] = value if isinstance(value, kind) else kind(value)
        given = dump(request, exclude_unset=True)
        given["override_settings"] = infotext_utils.get_override_settings(params) | (request.override_settings or {})
        return type(request)(**{**from_text, **given}), script_args

    def text2imgapi(self, txt2imgreq: StableDiffusionTxt2ImgProcessingAPI) -> dict:  # type: ignore[valid-type]
        request, from_infotext = self.apply_infotext(txt2imgreq)
        return self._generate(StableDiffusionProcessingTxt2Img, scripts.scripts_txt2img, request, from_infotext)

    def img2imgapi(self, img2imgreq: StableDiffusionImg2ImgProcessingAPI) -> dict:  # type: ignore[valid-type]
        """There is no infotext here."""
        pictures = {"init_images": [decode_base64_to_image(image) for image in img2imgreq.init_images]}
        if img2imgreq.mask:
            pictures["mask"] = decode_base64_to_image(img2imgreq.mask)
        return self._generate(StableDiffusionProcessingImg2Img, scripts.scripts_img2img, img2imgreq, {}, **pictures)

    def _generate(
        self, kind: type[StableDiffusionProcessing], runner: scripts.ScriptRunner, request: Any,
        from_infotext: dict[int, Any], **pictures: Any,
    ) -> dict:
        tab, name = "txt2img" if runner is scripts.scripts_txt2img else "img2img", request.script_name
        selected = get_script(name, runner.selectable_scripts) if name else None
        sampler, scheduler = sd_samplers.get_sampler_and_scheduler(
            request.sampler_name or request.sampler_index, request.scheduler
        )
        script_args = self.init_script_args(request, selected, from_infotext, runner)
        arguments = {f.name: getattr(request, f.name) for f in fields(kind) if f.name not in _NOT_OURS} | pictures
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
        made = [encode_pil_to_base64(image) for image in processed.images] if request.send_images else []
        return {"images": made, "parameters": jsonable_encoder(dump(request)), "info": processed.js()}

    def pnginfoapi(self, req: PNGInfoRequest) -> dict:
        text, items = images.read_info_from_image(decode_base64_to_image(req.image.strip()))
        params = infotext_utils.parse_generation_parameters(text or "")
        return {"info": text or "", "items": items, "parameters": params}

    def progressapi(self, skip_current_image: bool = False) -> dict:
        state = shared.state
        done = state.progress()
        passed = time.time() - state.time_start
        if done > 0:
            state.set_current_image()
        picture = None if skip_current_image or done == 0 else state.current_image
        return {
            "progress": done, "eta_relative": passed / done - passed if done else 0.0, "state": state.dict(),
            "textinfo": state.textinfo, "current_image": encode_pil_to_base64(picture) if picture else None,
        }

    def get_config(self) -> dict:
        defaults = {key: info.default for key, info in opts.data_labels.items()}
        return {**defaults, **opts.data}

    def set_config(self, req: dict[str, Any] = Body(...)) -> None:  # noqa: B008 - FastAPI's way
        name = req.get("sd_model_checkpoint")
        if name is not None and name not in sd_models.checkpoint_aliases:
            raise RuntimeError(f"model {name!r} not found")
        for key, value in req.items():
            opts.set(key, value, is_api=True)
        opts.save(shared.config_filename)

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
