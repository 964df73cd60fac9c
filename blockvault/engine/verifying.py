"""The verify verb for an opened vault: which points, with what budget, and what is told of it.

Time is given: `elapsed` says how many seconds the run has taken, `moment` what is noted for what was read.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from blockvault.engine.listing import Listing
from blockvault.engine.session import Session
from blockvault.engine.verified import verified_state
from blockvault.engine.verify import Budget, Verifier
from blockvault.errors import NotFoundError
from blockvault.model import PointInfo, VerifyBudget, VerifyReport
from blockvault.monitor import Monitor


def verify(
    session: Session,
    listing: Listing,
    infos: list[PointInfo],
    *,
    everything: bool,
    quick: bool,
    budget: VerifyBudget | None,
    within_days: int,
    moment: datetime,
    elapsed: Callable[[], float],
    monitor: Monitor,
) -> VerifyReport:
    """See `Vault.verify`; `everything`: the points are all there are."""
    chosen = [(info.label, info.point) for info in infos if info.point is not None]
    if not everything and not chosen:
        raise NotFoundError(
            "point.not-in-vault",
            f"point {infos[0].label} is only a snapshot",
            why="a snapshot has no identities to be checked against until it is transferred",
            do="run `blockvault transfer` first",
        )
    state = verified_state(session)
    with session.reading(point for _, point in chosen):
        there = {info.id for info in listing.points()}  # what has ended before the lease was taken is left out
        chosen = [(label, one) for label, one in chosen if one.id in there]
        found = make_verifier(session, monitor, moment).run(
            chosen, quick=quick, everything=everything, budget=_limits(budget, elapsed), state=state
        )
    return VerifyReport(
        quick=quick,
        points=len(chosen),
        blocks=found.blocks,
        plain_bytes=found.plain_bytes,
        stored_bytes=found.stored_bytes,
        damage=tuple(found.damage),
        seconds=elapsed(),
        warnings=tuple(warning.message for warning in monitor.warnings),
        complete=found.complete,
        quarantined=found.quarantined,
        coverage=state.coverage(moment, within_days),
    )


def make_verifier(session: Session, monitor: Monitor, moment: datetime) -> Verifier:
    """A verifier of an opened vault, to be run once."""
    return Verifier(
        session.store,
        session.keys,
        session.shelf,
        session.catalog,
        monitor,
        quarantine=session.quarantine,
        now=moment,
    )


def _limits(budget: VerifyBudget | None, elapsed: Callable[[], float]) -> Budget | None:
    if budget is None:
        return None
    seconds = budget.seconds
    return Budget(
        expired=lambda: seconds is not None and elapsed() >= seconds,
        stored_bytes=budget.byte_count,
        share=budget.share,
    )
