//! The scripts, each after what all of them begin with.

use std::sync::LazyLock;

use crate::bus::Script;

macro_rules! scripts {
    ($($name:ident $($file:literal)*;)*) => {
        $(
            static $name: LazyLock<Script> = LazyLock::new(|| {
                // Redis runs each script for itself, so what they share is a part of each text.
                Script::new(concat!(include_str!("base.lua"), $(include_str!($file)),*))
            });
        )*
    };
}

scripts! {
    APPEND "quick.lua" "topic.lua" "append.lua";
    POSITION "topic.lua" "position.lua";
    SINCE "topic.lua" "since.lua";
    READ "topic.lua" "read.lua";
    CONFIRM "topic.lua" "confirm.lua";
    FORGET "topic.lua" "forget.lua";
}

/// What is asked of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Append,
    Position,
    Since,
    Read,
    Confirm,
    Forget,
}

impl Call {
    pub(super) fn script(self) -> &'static Script {
        match self {
            Self::Append => &APPEND,
            Self::Position => &POSITION,
            Self::Since => &SINCE,
            Self::Read => &READ,
            Self::Confirm => &CONFIRM,
            Self::Forget => &FORGET,
        }
    }

    /// Whether it matters to the script how far the node has seen the numbering.
    pub(super) fn heeds_what_was_seen(self) -> bool {
        !matches!(self, Self::Read | Self::Forget)
    }
}
