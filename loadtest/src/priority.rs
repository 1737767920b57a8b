//! Who gets a processor first. Where the measuring processes share one with the server and with thousands of busy
//! clients, they wait for it longer than the server takes, and would measure that.

use thread_priority::{
    NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue,
    ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// Of 99: above all ordinary processes, below the kernel's own watchdogs.
const FIRST: u8 = 50;

/// Puts this thread before all ordinary ones; false where the system does not permit it (Linux: it takes root,
/// `CAP_SYS_NICE` or `ulimit -r`). Processes that it starts from then on inherit it.
pub(crate) fn go_first() -> bool {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    ThreadPriorityValue::try_from(FIRST)
        .is_ok_and(|value| set(ThreadPriority::Crossplatform(value), policy))
}

/// This thread goes first until it is dropped.
#[derive(Debug)]
pub(crate) struct First(());

impl First {
    /// Asks the system for it.
    pub(crate) fn ask() -> Option<Self> {
        go_first().then_some(Self(()))
    }
}

impl Drop for First {
    fn drop(&mut self) {
        let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
        // To give way is always permitted.
        let _ = set(ThreadPriority::Min, policy);
    }
}

/// Puts this thread behind all others of the machine.
///
/// # Errors
/// The system does not permit it.
pub(crate) fn give_way() -> std::io::Result<()> {
    rustix::process::nice(19)?;
    Ok(())
}

fn set(priority: ThreadPriority, policy: ThreadSchedulePolicy) -> bool {
    set_thread_priority_and_policy(thread_native_id(), priority, policy).is_ok()
}
