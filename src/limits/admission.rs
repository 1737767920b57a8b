//! How much is accepted and not yet offered to sockets, and when publications wait for those.

use std::time::Duration;

/// Deliveries up to which a publication is small: it has its own share of admission and its own flush list.
pub const SMALL_DELIVERIES: usize = 100;

/// Bytes of a frame that count as one large publication at admission; 64 of them are 40 KiB for a connection at a time.
/// Past about 48 KiB a copied write is hardly cheaper, and everyone waits longer: docs/internals/performance.md has the figures.
pub const ADMITTED_UNIT: usize = 640;

/// The same where it can reach no more than [`PAGED_SOCKETS`](super::PAGED_SOCKETS): of pages a longer write is cheaper, up to
/// a segment of 64 KiB, which 64 of these nearly fill.
pub const ADMITTED_UNIT_PAGED: usize = 960;

/// What one publication counts at least there, of [`ADMITTED_UNIT`]: 72 are under way instead of 64, which costs less
/// CPU and no latency that could be distinguished from noise; 128 do.
pub const ADMITTED_LEAST_PAGED: usize = 568;

/// The most of admission that one large publication takes for its bytes, as a part of it: so many are always under way
/// at the same time, and no shard waits for the last one's end.
pub const ADMITTED_PART: usize = 8;

/// In how many steps admission's places are let out again while the sockets are written once round. So many rounds of
/// publications are under way at the same time, and each is large enough to be placed as one batch.
pub const ADMISSION_STEPS: usize = 4;

/// How long a large publication waits, at most, while more than half of its app's sockets refuse. If most clients stall
/// together, the cause is the way to them and seldom they; publishers that wait a little do not get them all closed as
/// slow.
pub const BACKPRESSURE_DELAY: Duration = Duration::from_millis(100);

/// How often the sockets are looked at in that time.
pub const BACKPRESSURE_STEP: Duration = Duration::from_millis(1);

/// How long a shard that is ahead of the others waits for more to write, while admission is full.
pub const COALESCE_DELAY: Duration = Duration::from_millis(1);

/// The part of what admission lets in that is worth a system call for one connection while admission is full.
pub const COALESCE_PART: usize = 2;
