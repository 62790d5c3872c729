"""Shared by all tests: quiet, offline, and one thread each, so that a suite beside it keeps its core."""

import os
import shutil
import tempfile
from pathlib import Path

# Before torch is imported, here and in the processes that tests start: on two cores, two threads each of two test
# processes wait for one another at every small layer, and a run takes several times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


LONGEST = (
    "test_browser.py",
    "test_memory.py",
    "test_loop.py",
    "test_download.py",
    "test_browser_modules.py",
    "test_extension.py",
    "test_switching.py",
    "test_unet.py",
    "test_samplers.py",
    "test_webuiapi.py",
    "test_browser_presets.py",
    "test_browser_preview.py",
)
"""The files that take longest, as "time per file" says at the end of a run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: of two processes neither is left with one when the other has ended."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_configure(config: pytest.Config) -> None:
    """The folder in which the processes of one run keep what takes seconds to make (untrained_helpers.py)."""
    if not hasattr(config, "workerinput"):
        os.environ["OMS_TEST_CACHE"] = tempfile.mkdtemp(prefix="oms-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop("OMS_TEST_CACHE"), ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Time per file, the longest first."""
    spent: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                file = report.nodeid.partition("::")[0]
                spent[file] = spent.get(file, 0.0) + report.duration
    terminalreporter.section("time per file")
    for file, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(f"{seconds:7.1f} s  {file}")
    terminalreporter.write_line(f"{sum(spent.values()):7.1f} s  in all, over all processes")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder."""
    return ROOT


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The published repositories, small: names, and files with their content."""
    import published_helpers

    return published_helpers.published(tmp_path_factory.mktemp("module"), tmp_path_factory.mktemp("encoder"))
