"""The faults of a plan, applied: to the connection of a seat, to a clock, to the relay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from .history import seeded
from .pipes import WINDOW, Pipe
from .plan import Step
from .streams import Wire

if TYPE_CHECKING:
    from .world import World

__all__ = ["apply", "apply_to", "heal"]

_YEAR_MS: Final = 31_557_600_000


def apply(world: World, step: Step) -> None:
    """At its time. A fault of a connection waits for the next one where it says `fresh`, or where there is none."""
    world.history.note(step.who, f"fault {step}")
    match step.verb:
        case "restart":
            world.restart(step.args["kind"], step.args["down"])
        case "clock":
            _set_clock(world, step.args["at"], int(step.args["years"] * _YEAR_MS))
            world.later(step.args["seconds"], lambda: _set_clock(world, step.args["at"], 0))
        case "full":
            world.mail.fail(step.args["how"], step.args["seconds"])
        case "relay":
            world.tricks.add(step.who.partition("/")[0], step.number, step.args["how"], step.args["count"])
        case _:
            seat = world.seats[step.who]
            if seat.wire is None or seat.wire.closed or step.args.get("fresh"):
                seat.armed.append(step)
            else:
                apply_to(world, seat.wire, step)


def _set_clock(world: World, user: str, offset_ms: int) -> None:
    if not user:
        world.server_clock_ms = offset_ms
    world.mail.odd_clocks.add(user)
    for seat in world.seats.values():
        if seat.user == user:
            seat.clock_ms = offset_ms


def apply_to(world: World, wire: Wire, step: Step) -> None:
    """A fault of a connection."""
    wire.faults.add(step.verb)
    world.ledger.faulted.add(wire.name)
    pipes = wire.pipes if step.args.get("way", "both") == "both" else (getattr(wire, step.args["way"]),)
    _APPLY[step.verb](world, wire, pipes, step)
    for pipe in wire.pipes:
        pipe.changed()


def _split(world: World, wire: Wire, pipes: Sequence[Pipe], step: Step) -> None:
    for pipe in pipes:
        pipe.split = seeded("split", world.plan.seed, step.number, pipe.name)
    world.later(step.args["seconds"], lambda: _restore(pipes))


def _delay(world: World, wire: Wire, pipes: Sequence[Pipe], step: Step) -> None:
    for pipe in pipes:
        pipe.delay = step.args["by"]
    world.later(step.args["seconds"], lambda: _restore(pipes))


def _cut(world: World, wire: Wire, pipes: Sequence[Pipe], step: Step) -> None:
    for pipe in pipes:
        pipe.cut_after = step.args["after"]


def _half_open(world: World, wire: Wire, pipes: Sequence[Pipe], step: Step) -> None:
    for pipe in pipes:
        pipe.lost = True


def _reset(world: World, wire: Wire, pipes: Sequence[Pipe], step: Step) -> None:
    wire.reset()


def _slow(world: World, wire: Wire, pipes: Sequence[Pipe], step: Step) -> None:
    wire.down.window = step.args["window"]
    wire.down.stalled_until = trio.current_time() + step.args["seconds"]
    world.later(step.args["seconds"], lambda: _restore([wire.down]))


def _flip(world: World, wire: Wire, pipes: Sequence[Pipe], step: Step) -> None:
    bit = seeded("bit", world.plan.seed, step.number).randrange(8)
    for pipe in pipes:
        pipe.flip_after = step.args["after"] * 8 + bit


_APPLY: Final[dict[str, Callable[[World, Wire, Sequence[Pipe], Step], None]]] = {
    "split": _split,
    "delay": _delay,
    "cut": _cut,
    "half-open": _half_open,
    "reset": _reset,
    "slow": _slow,
    "flip": _flip,
}


def _restore(pipes: Sequence[Pipe]) -> None:
    """As on a good network; what is lost, cut or flipped stays so."""
    for pipe in pipes:
        pipe.split, pipe.delay, pipe.window = None, 0.0, WINDOW
        pipe.stalled_until = 0.0
        pipe.changed()


def heal(world: World) -> None:
    """No more faults. Half-open connections stay what they are: noticing them is for the two ends."""
    world.tricks.clear()
    world.server_clock_ms = 0
    world.mail.heal()
    for seat in world.seats.values():
        seat.clock_ms = 0
        seat.armed.clear()
    for wire in world.wires.values():
        _restore(wire.pipes)
        for pipe in wire.pipes:
            pipe.cut_after = pipe.flip_after = None
