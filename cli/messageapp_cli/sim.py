"""`messageapp sim`: a deterministic simulation of servers, users and everything that goes wrong between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from collections.abc import Collection

    from messageapp.sim.plan import Plan
    from messageapp.sim.run import Result

__all__ = ["sim"]

_FOUND: Final = 1
_TOLD: Final = 250  # runs between two lines that say how far it is: a minute
_MOST_USERS: Final = 8
_MOST_STEPS: Final = 10_000


def _faults(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    from messageapp.sim.plan import FAULTS

    if value in ("all", "none"):
        return tuple(FAULTS) if value == "all" else ()
    chosen = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
    for name in chosen:
        if name not in FAULTS:
            raise click.BadParameter(f"there is no fault {name!r}; the faults are {', '.join(FAULTS)}")
    return tuple(name for name in FAULTS if name in chosen)


def _numbers(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(number) for number in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter("numbers of steps, with commas between") from None


@click.command()
@click.option("--seed", metavar="N", type=click.IntRange(0), default=1, help="What everything follows from (1).")
@click.option("--seeds", metavar="N", type=click.IntRange(1), default=1, help="So many runs: SEED, SEED + 1, … (1).")
@click.option("--users", metavar="N", type=click.IntRange(2, _MOST_USERS), default=3, help="How many people (3).")
@click.option("--steps", metavar="N", type=click.IntRange(0, _MOST_STEPS), default=30, help="Things that happen (30).")
@click.option(
    "--faults", metavar="NAMES", default="all", callback=_faults, help="all, none, or names with commas between (all)."
)
@click.option(
    "--only", metavar="NUMBERS", callback=_numbers, help="Of the steps only these, as a failure printed them."
)
@click.option("--history", is_flag=True, help="Print what happened also where nothing is wrong.")
def sim(
    seed: int,
    seeds: int,
    users: int,
    steps: int,
    faults: Collection[str],
    only: Collection[int] | None,
    history: bool,
) -> int:
    """Run the real server and real clients on a simulated network, clock and scheduler, and look for what may not be.

    The same options give the same history, everywhere. Faults: split (bytes come in pieces), delay, cut (at any byte),
    half-open (bytes vanish), reset, restart (of the server), slow (readers), clock (years off), relay (a malicious
    server changes, repeats, reorders, drops messages), flip (a bit on the wire), full (the server's disk).

    Where an invariant breaks it ends with 1 and prints the seed, the invariant, the shortest history that it finds, and
    the command that repeats it. Else it prints the number of runs and a digest of all their histories.

    With three or more users the first has two devices. Not for secrets: the users' keys come from the seed.
    """
    import hashlib

    from messageapp.sim.plan import make_plan
    from messageapp.sim.run import run_plan

    if only is not None and seeds > 1:
        raise click.UsageError("--only is of one seed: its numbers mean other steps with the next one")
    if only and not set(only) <= set(range(1, steps + 1)):
        raise click.UsageError(f"--only has numbers from 1 to {steps}")
    digest, shown = hashlib.sha256(), 0
    for done in range(seeds):
        if done and not done % _TOLD:
            click.echo(f"messageapp: {done:,} of {seeds:,} runs, nothing broken so far", err=True)
        plan = make_plan(seed + done, users, steps, faults)
        if only is not None:
            plan = plan.only(only)
        result = run_plan(plan)
        if result.broken is not None:
            _tell(plan, result, users, steps, faults, shorten=only is None)
            return _FOUND
        digest.update(result.digest.encode())
        shown += result.shown
        if history:
            click.echo("\n".join(result.lines))
    runs = "1 run" if seeds == 1 else f"{seeds} runs"
    click.echo(f"{runs}, nothing broken; {shown} texts shown; digest {digest.hexdigest()}")
    return 0


def _tell(plan: Plan, result: Result, users: int, steps: int, faults: Collection[str], *, shorten: bool) -> None:
    from messageapp.sim.plan import FAULTS
    from messageapp.sim.shrink import shrink

    if shorten:
        click.echo(
            f"messageapp: seed {plan.seed} breaks “{result.broken}”; looking for the shortest history …", err=True
        )
        plan, result = shrink(plan, result)
    names = "all" if len(faults) == len(FAULTS) else ",".join(faults) or "none"
    numbers = ",".join(str(step.number) for step in plan.steps)
    click.echo(f"seed {plan.seed} breaks an invariant, with {len(plan.steps)} steps")
    click.echo("\n".join(result.lines))
    click.echo(
        f"replay: messageapp sim --seed {plan.seed} --users {users} --steps {steps} --faults {names} --only '{numbers}'"
    )
