"""What is being generated, and how far it has come (host file: modules/shared_state.py)."""

import contextlib
import datetime
import time
from typing import Any

from PIL import Image


class State:
    def __init__(self, job: str = "", job_count: int = 0) -> None:
        self.job, self.job_count = job, job_count
        self.time_start = time.time()
        self.job_timestamp = datetime.datetime.now().strftime("%Y%m%d%H%M%S")
        self.job_no = self.sampling_step = self.sampling_steps = 0
        self.skipped = self.interrupted = self.stopping_generation = False
        self.textinfo: str | None = None
        self.current_latent: Any = None
        self.current_image: Image.Image | None = None
        self.current_image_sampling_step = 0

    def interrupt(self) -> None:
        self.interrupted = True

    def skip(self) -> None:
        self.skipped = True

    def stop_generating(self) -> None:
        self.stopping_generation = True

    def nextjob(self) -> None:
        self.job_no += 1
        self.sampling_step = self.current_image_sampling_step = 0

    def dict(self) -> dict:
        names = ("skipped", "interrupted", "stopping_generation", "job", "job_count", "job_timestamp", "job_no",
                 "sampling_step", "sampling_steps")
        return {name: getattr(self, name) for name in names}

    def begin(self, job: str = "(unknown)") -> None:
        self.__init__(job, job_count=-1)

    def end(self) -> None:
        self.job = ""
        self.job_count = 0

    def progress(self) -> float:
        """How much of the whole job is done, 0 to 1."""
        if self.job_count == 0:
            return 0.0
        done = 0.01
        if self.job_count > 0:
            done += self.job_no / self.job_count
            if self.sampling_steps > 0:
                done += self.sampling_step / self.sampling_steps / self.job_count
        return min(done, 1.0)

    def set_current_image(self) -> None:
        """Decodes the latent of the running step for a preview, if enough steps have passed since the last one."""
        from modules import sd_samplers_common, shared

        latent, step = self.current_latent, self.sampling_step
        due = step - self.current_image_sampling_step >= shared.opts.show_progress_every_n_steps
        if latent is None or not (shared.opts.live_previews_enable and due):
            return
        with contextlib.suppress(Exception):  # the model may be switched meanwhile; a preview is no reason to fail
            self.current_image = sd_samplers_common.sample_to_image(latent)
            self.current_image_sampling_step = step
