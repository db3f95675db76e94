"""The steps by which every activation ends that had a container, on the short way and on the long one. Nothing here waits."""

from __future__ import annotations

import logging
import time

from invoker.model import Activation
from invoker.record.recorder import Recorder
from invoker.ticket import Ticket
from pool.lease import Lease

log = logging.getLogger(__name__)


def read_counters(ticket: Ticket, lease: Lease) -> None:
    """Note when the work ended, and what it used; without numbers where the container's cgroup is gone."""
    trace = ticket.trace
    trace.ended = time.monotonic()
    trace.sent = lease.sent_at
    try:
        trace.usage = lease.read_usage()
    except OSError as error:
        log.info("activation %s has no counters: %s", ticket.activation_id, error)


def take_lines(ticket: Ticket, lease: Lease) -> list[str]:
    """Take the log lines of one whose container writes them before it answers."""
    if lease.log_frames != 0:
        lease.logs.drain()
    # Without an answer nobody says how many lines there were: the last ones may have died with it.
    return lease.logs.end(ticket.activation_id, complete=lease.log_frames is not None)


def write_record(recorder: Recorder, activation: Activation, lines: list[str] | None, *, stored: bool | None) -> None:
    """Write the finished record; only what is billed where `stored` is false: the namespace keeps none.

    Raises:
        RecordTooLarge, JournalFull: as `Recorder.finish`.
    """
    if stored is False:
        recorder.finish_unstored(activation)
    else:
        recorder.finish(activation, logs=lines)
