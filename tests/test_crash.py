"""kill -9 of a server or a client that writes and reads messages: six times here, 200 in `nox -s crash`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from crash.figures import SEED
from crash.story import NAMES, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fcntl locks and kill -9 as Linux has them")
POINTS = 6


def test_nothing_acknowledged_is_lost_and_nothing_comes_twice(tmp_path: Path) -> None:
    outcome = run(tmp_path / "home", POINTS, SEED)
    assert outcome.violations == []
    assert (outcome.lost, outcome.twice, outcome.altered, outcome.healed) == (0, 0, 0, 0)
    assert outcome.kills.total() == outcome.points == POINTS
    assert set(outcome.kills) >= {"server", "client, at a statement"}
    assert outcome.written >= outcome.acknowledged > 10 * len(NAMES)
