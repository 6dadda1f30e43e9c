"""What lies beside a model's weights and changes how it is run: gates of WEMoE, corrections of surgery."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from merging.adaptation import surgery, wemoe_files


def complete(network: Any, folder: str | os.PathLike[str]) -> None:
    """Turn a network that was loaded from a folder into the WEMoE that lies there, in place, if one does."""
    wemoe_files.restore(network, Path(folder))


@contextmanager
def corrected(network: Any, folder: str | os.PathLike[str], task: str) -> Iterator[None]:
    """Run a network with the correction of a task that lies in its folder, if one does."""
    module = surgery.load(Path(folder)).get(task)
    if module is None:
        yield
        return
    with surgery.attached(network, module.to(next(network.parameters()).device)):
        yield
