//! The client protocol `fanfare.v1`: JSON objects in text frames, distinguished by `op`; bytes in binary frames,
//! after such an object.

mod confirm;
mod fields;
mod members;
mod reply;
mod request;
mod parsed;

pub use self::{
    confirm::{confirm_ping, confirmed},
    members::{Changes, Member, MemberKind, MembersBuilder, MembersPage},
    parsed::{ParsedAck, ParsedData, ParsedFrame, ParsedMember, ParsedSender},
    reply::{
        JoinAck, Position, Reconnect, Welcome, ack, ack_auth, ack_data, ack_join, ack_members,
        ack_position, bye, bye_between, bye_expired, error, goes_on, joined, left, member,
        members_changed, pong, welcome,
    },
    request::{
        Call, ClientEvent, Misunderstood, Request, Since, binary_id, id, parse, parse_as,
        parse_binary,
    },
};

/// The name of the protocol, as `Sec-WebSocket-Protocol` and `connection.protocol` have it.
pub const NAME: &str = "fanfare.v1";
