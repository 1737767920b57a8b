//! Which fields each publishing call takes, alone and as an item of a batch.

use crate::http::{
    body::{EXCEPT, TO},
    shape::{Kind, Shape, field},
};

/// The publishing calls: thin forms of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Emit,
    Publish,
    Send,
    Broadcast,
    Dispatch,
}

const EXTENT: Kind = Kind::Word(&["cluster", "node"]);

pub(super) const CALL: Kind = Kind::Word(&["emit", "publish", "send", "broadcast", "dispatch"]);

pub(in crate::http) const USER_OR_USERS: [&str; 2] = ["user", "users"];

pub(super) const CHANNEL_OR_CHANNELS: [&str; 2] = ["channel", "channels"];

/// The shapes of a publishing call, alone and as an item of a batch: the fields that are its own, what its `except` may be,
/// and what every call takes.
macro_rules! shapes {
    ($alone:ident, $item:ident, [$($own:expr),*], $except:expr, [$($required:expr),*]) => {
        static $alone: Shape = shapes!([$($own),*], $except, [$($required),*]);
        static $item: Shape =
            shapes!([field("call", CALL) $(, $own)*], $except, [&["call"] $(, $required)*]);
    };
    ([$($own:expr),*], $except:expr, [$($required:expr),*]) => {
        Shape {
            fields: &[
                $($own,)*
                field("event", Kind::Text),
                field("data", Kind::Any),
                field("data_base64", Kind::Text),
                field("filter", Kind::Text),
                field("params", Kind::Members),
                field("except", $except),
                field("scope", EXTENT),
                field("receipt", EXTENT),
                field("store", Kind::Flag),
            ],
            required: &[$($required,)* &["event"]],
        }
    };
}

shapes!(
    EMIT,
    EMIT_ITEM,
    [field("to", Kind::Object(&TO))],
    Kind::Object(&EXCEPT),
    []
);
shapes!(
    PUBLISH,
    PUBLISH_ITEM,
    [field("user", Kind::Text), field("users", Kind::Texts)],
    Kind::Object(&EXCEPT),
    [&USER_OR_USERS]
);
shapes!(
    SEND,
    SEND_ITEM,
    [field("channel", Kind::Text), field("channels", Kind::Texts)],
    Kind::Object(&EXCEPT),
    [&CHANNEL_OR_CHANNELS]
);
shapes!(BROADCAST, BROADCAST_ITEM, [], Kind::Object(&EXCEPT), []);
shapes!(
    DISPATCH,
    DISPATCH_ITEM,
    [field("recipients", Kind::Texts)],
    Kind::TextsOr(&EXCEPT),
    [&["recipients"]]
);

impl Verb {
    /// The verb that a batch item names.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "emit" => Some(Self::Emit),
            "publish" => Some(Self::Publish),
            "send" => Some(Self::Send),
            "broadcast" => Some(Self::Broadcast),
            "dispatch" => Some(Self::Dispatch),
            _ => None,
        }
    }

    /// The fields that the verb takes.
    pub(crate) fn shape(self) -> &'static Shape {
        match self {
            Self::Emit => &EMIT,
            Self::Publish => &PUBLISH,
            Self::Send => &SEND,
            Self::Broadcast => &BROADCAST,
            Self::Dispatch => &DISPATCH,
        }
    }

    /// The fields of an item of a batch that names the verb.
    pub(crate) fn item_shape(self) -> &'static Shape {
        match self {
            Self::Emit => &EMIT_ITEM,
            Self::Publish => &PUBLISH_ITEM,
            Self::Send => &SEND_ITEM,
            Self::Broadcast => &BROADCAST_ITEM,
            Self::Dispatch => &DISPATCH_ITEM,
        }
    }
}
