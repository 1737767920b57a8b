//! What every event carries: which one it is, and when it was due.
//!
//! It stands in the event's `data`, a JSON string of plain letters and digits, so that a client finds it by one
//! search for its first character and reads it without parsing JSON.

/// Names one event of one measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The measurement; frames that are late from another one are told apart by it.
    pub(crate) round: u16,
    /// What the events of one order have in common: a caller, or all that go to single users.
    pub(crate) stream: u16,
    /// The place in the stream, per connection: 0, 1, 2, …
    pub(crate) sequence: u32,
    /// When it was sent, or should have been, by [`crate::clock::now`].
    pub(crate) at: u64,
}

const MARK: u8 = b'~';
const DIGITS: usize = 32;

/// Shortest `data` that holds a stamp, with its quotes.
pub(crate) const BYTES: usize = 1 + DIGITS + 2;

impl Stamp {
    /// The JSON text of `data`: `bytes` long, or as long as a stamp needs.
    pub(crate) fn data(&self, bytes: usize) -> String {
        let Self {
            round,
            stream,
            sequence,
            at,
        } = self;
        let mut data = format!("\"~{round:04x}{stream:04x}{sequence:08x}{at:016x}");
        data.extend(std::iter::repeat_n('x', bytes.saturating_sub(BYTES)));
        data.push('"');
        data
    }

    /// The stamps in a frame, of which there are as many as events; none in frames that hold no event of ours.
    pub(crate) fn all(frame: &[u8]) -> impl Iterator<Item = Self> {
        memchr::memchr_iter(MARK, frame).filter_map(|mark| Self::parse(&frame[mark + 1..]))
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let digits: &[u8; DIGITS] = text.first_chunk()?;
        let ([kind, sequence, high, low], []) = digits.as_chunks() else {
            return None;
        };
        let kind = number(*kind)?;
        Some(Self {
            round: (kind >> 16) as u16,
            stream: kind as u16,
            sequence: number(*sequence)?,
            at: u64::from(number(*high)?) << 32 | u64::from(number(*low)?),
        })
    }
}

/// The number of eight hexadecimal digits, small letters; all of them at once, since every delivery comes by here.
fn number(digits: [u8; 8]) -> Option<u32> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let digits = u64::from_be_bytes(digits);
    // Digits are 0x30 to 0x39, letters 0x61 to 0x66.
    let letters = (digits >> 6) & ONES;
    if digits & (0xf0 * ONES) != 0x30 * (ONES + letters) {
        return None;
    }
    let nibbles = (digits & (0x0f * ONES)) + 9 * letters;
    let bytes = (nibbles | nibbles >> 4) & 0x00ff_00ff_00ff_00ff;
    let halves = (bytes | bytes >> 8) & 0x0000_ffff_0000_ffff;
    Some((halves | halves >> 16) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_eight_digits_at_once() {
        for value in [0, 1, 0x1234_5678, 0x9abc_def0, 0xa0b1_c2d3, u32::MAX] {
            let digits = format!("{value:08x}").into_bytes().try_into().unwrap();
            assert_eq!(number(digits), Some(value));
        }
        assert_eq!([*b"000000,0", *b"\"0000000", [0; 8]].map(number), [None; 3]);
    }

    #[test]
    fn a_stamp_is_found_in_the_frame_that_carries_it() {
        let stamp = Stamp {
            round: 7,
            stream: 300,
            sequence: 70_000,
            at: u64::MAX - 1,
        };
        for bytes in [0, 128, 1024] {
            let data = stamp.data(bytes);
            assert_eq!(data.len(), bytes.max(BYTES));
            let frame = format!(r#"{{"event":"load","data":{data}}}"#);
            assert_eq!(Stamp::all(frame.as_bytes()).collect::<Vec<_>>(), [stamp]);
        }
        assert_eq!(Stamp::all(br#"{"op":"pong"}"#).next(), None);
        assert_eq!(Stamp::all(b"~12").next(), None);
        assert_eq!(Stamp::all(&[&b"~"[..], &[b' '; 40]].concat()).next(), None);
    }

    #[test]
    fn a_frame_may_hold_several() {
        let stamps: Vec<Stamp> = (0..3)
            .map(|n| Stamp {
                round: 1,
                stream: n,
                sequence: 9,
                at: 5,
            })
            .collect();
        let frame = stamps
            .iter()
            .map(|stamp| stamp.data(99))
            .collect::<Vec<_>>()
            .join("}\n{");
        assert_eq!(Stamp::all(frame.as_bytes()).collect::<Vec<_>>(), stamps);
    }
}
