//! One clock for all processes of a test: the machine's monotonic one, in nanoseconds.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

use crate::error::{Doing, Result};

const SECOND: u64 = 1_000_000_000;

/// Nanoseconds since some moment that all processes of this machine share.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}

/// `duration` in the unit of [`now`].
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Wakes an event loop at a moment, to the microsecond; epoll's own timeout knows milliseconds only.
#[derive(Debug)]
pub(crate) struct Alarm(OwnedFd);

impl Alarm {
    /// An alarm that is not set.
    pub(crate) fn new() -> Result<Self> {
        timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )
        .map(Self)
        .doing("cannot make a timer")
    }

    /// The descriptor becomes readable at `moment`, a value of [`now`].
    pub(crate) fn set(&self, moment: u64) -> Result<()> {
        let moment = moment.max(1);
        let value = Timespec {
            tv_sec: (moment / SECOND) as i64,
            tv_nsec: (moment % SECOND) as i64,
        };
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: value,
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &once)
            .map(|_| ())
            .doing("cannot set a timer")
    }

    /// For registering it.
    pub(crate) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
