//! Redis Cluster's slots, and the partitions that Fanfare's names fall into.
//!
//! Sharded channels are subscribed where their slot is, and a script reaches only keys of one slot. So the names of a
//! topic carry a tag, of which there are few enough to have one place each: [`PARTITIONS`], spread evenly over the slots.

use std::sync::LazyLock;

/// Slots of a Redis Cluster.
pub(super) const SLOTS: u16 = 16_384;

/// Partitions of what is spread over a Redis Cluster. More than primaries, so that each has its share; few enough to be
/// looked at one by one.
pub(super) const PARTITIONS: u16 = 64;

/// The tag of each partition: `p00` to `p63`, and letters that bring it into its share of the slots.
///
/// These are names on the wire between nodes: they are the same forever.
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| (0..PARTITIONS).map(find_tag).collect());

/// The tag of partition `n`, without braces.
pub(super) fn tag(n: u16) -> &'static str {
    &TAGS[usize::from(n)]
}

fn find_tag(n: u16) -> String {
    let share = SLOTS / PARTITIONS;
    let letters =
        |k: u32| [k / 676, k / 26 % 26, k % 26].map(|k| char::from(b'a' + (k % 26) as u8));
    let tags = (0..17_576).map(|k| format!("p{n:02}{}", String::from_iter(letters(k))));
    // One of 64 is right; that none of 17,576 is, the test excludes.
    tags.into_iter()
        .find(|tag| crc16(tag.as_bytes()) % SLOTS / share == n)
        .unwrap_or_default()
}

/// The slot of a key or a sharded channel: that of what is in its first braces, if anything is.
pub(super) fn of(name: &[u8]) -> u16 {
    let tag = name.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &name[open + 1..];
        rest.iter()
            .position(|byte| *byte == b'}')
            // Redis takes empty braces as part of the name.
            .filter(|close| *close > 0)
            .map(|close| &rest[..close])
    });
    crc16(tag.unwrap_or(name)) % SLOTS
}

/// CRC-16/XMODEM, as the specification of Redis Cluster has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            crc << 1 ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // These are what CLUSTER KEYSLOT says.
        assert_eq!(of(b"foo"), 12_182);
        assert_eq!(of(b"{foo}.bar"), 12_182);
        assert_eq!(of(b"a{}{foo}"), crc16(b"a{}{foo}") % SLOTS);
        assert_eq!(of(b"a{{foo}}"), crc16(b"{foo") % SLOTS);
        assert_eq!(of(b"a{foo"), crc16(b"a{foo") % SLOTS);
    }

    #[test]
    fn tags_are_spread_evenly_and_never_change() {
        for n in 0..PARTITIONS {
            assert_eq!(
                of(format!("fanfare:{{{}}}:x", tag(n)).as_bytes()) / 256,
                n,
                "{}",
                tag(n)
            );
        }
        let all = (0..PARTITIONS).map(tag).collect::<String>();
        assert_eq!((all.len(), crc16(all.as_bytes())), (384, 48_947), "{all}");
    }
}
