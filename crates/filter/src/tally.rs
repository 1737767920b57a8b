//! What evaluations really do, counted in tests only: the table in `costs` holds it against what is charged.

#[cfg(test)]
std::thread_local! {
    static DONE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Notes work that was done, in units of about a nanosecond.
#[inline]
pub(super) fn add(work: usize) {
    #[cfg(test)]
    DONE.set(DONE.get().saturating_add(work));
    #[cfg(not(test))]
    let _ = work;
}

/// What was noted on this thread since the last call.
#[cfg(test)]
pub(super) fn take() -> usize {
    DONE.take()
}
