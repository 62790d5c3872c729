"""Ids of running tasks (host file: modules/progress.py)."""

import random
import string

current_task: str | None = None


def create_task_id(task_type: str) -> str:
    return f"task({task_type}-{''.join(random.choices(string.ascii_uppercase + string.digits, k=7))})"


def start_task(task: str | None) -> None:
    global current_task
    current_task = task


def finish_task(task: str | None) -> None:
    global current_task
    if current_task == task:
        current_task = None
