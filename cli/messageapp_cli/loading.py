"""Modules loaded in a second thread while the first waits for a passphrase, or for Argon2id.

Half of what `connect` takes from Enter to prompt is the loading of modules, a third Argon2id, which releases the
interpreter lock: side by side they take little more than the longer of the two.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

__all__ = ["loading"]


@contextmanager
def loading(*modules: str) -> Iterator[None]:
    """Import `modules`, one after the other, while the block runs; leaving it waits until they are there.

    The block must not import what is not loaded: of two threads that import modules which need each other, one may get
    a half-made one. What fails here fails again, and is raised, where the module is really imported.
    """
    thread = Thread(target=_load, args=modules, name="loading")
    collecting = gc.isenabled()
    gc.disable()  # loading makes next to no garbage
    try:
        thread.start()
        try:
            yield
        finally:
            thread.join()
    finally:
        gc.freeze()  # what is loaded now stays: no later collection, nor the one at exit, walks through it
        if collecting:
            gc.enable()


def _load(*modules: str) -> None:
    with suppress(Exception):  # whoever imports the module next gets it, with a trace that shows where
        for module in modules:
            importlib.import_module(module)
