//! What a peer can do wrong, and the close code that answers it.

use crate::close;

/// Why a connection must be failed (RFC 6455, section 7.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A reserved bit is set, and no extension was negotiated (section 5.2).
    #[error("a reserved bit is set, and no extension was negotiated")]
    ReservedBit,
    /// The opcode has no meaning (section 5.2).
    #[error("unknown opcode")]
    UnknownOpcode,
    /// A client's frame without a mask (section 5.1).
    #[error("a client must mask its frames")]
    NotMasked,
    /// A server's frame with a mask (section 5.1).
    #[error("a server must not mask its frames")]
    Masked,
    /// A control frame in fragments (section 5.5).
    #[error("a control frame must not be fragmented")]
    FragmentedControl,
    /// A control frame of more than 125 bytes (section 5.5).
    #[error("a control frame holds at most 125 bytes")]
    LongControl,
    /// A continuation, and no message was begun (section 5.4).
    #[error("a continuation of no message")]
    StrayContinuation,
    /// A new message inside a fragmented one (section 5.4).
    #[error("a new message inside a fragmented one")]
    Interleaved,
    /// A length in more bytes than it needs (section 5.2).
    #[error("a length must take as few bytes as it can")]
    LongLength,
    /// A 64-bit length with its top bit set (section 5.2).
    #[error("the top bit of a length must be 0")]
    HugeLength,
    /// A close frame of one byte, which can hold no code (section 5.5.1).
    #[error("a close frame of one byte")]
    ShortClose,
    /// A close code that must not be sent (section 7.4).
    #[error("a close code that must not be sent")]
    BadCloseCode,
    /// Text, or a close reason, that is not UTF-8 (section 8.1).
    #[error("text that is not UTF-8")]
    NotUtf8,
    /// The message, all fragments together, is over the bound.
    #[error("message too big")]
    TooBig,
    /// More fragments than [`crate::limits::MESSAGE_FRAGMENTS`].
    #[error("too many fragments")]
    TooManyFragments,
}

impl Violation {
    /// The code to close with: 1002, 1007 or 1009 (RFC 6455, section 7.4.1).
    pub fn code(self) -> u16 {
        match self {
            Self::NotUtf8 => close::NOT_UTF8,
            Self::TooBig | Self::TooManyFragments => close::TOO_BIG,
            _ => close::PROTOCOL,
        }
    }
}

impl From<Violation> for close::Close {
    fn from(violation: Violation) -> Self {
        Self::new(violation.code(), &violation.to_string())
    }
}
