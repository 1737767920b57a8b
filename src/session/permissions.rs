//! What a client may do: the one place that decides about every operation.

use crate::{
    auth::{Rights, lacking},
    protocol::native::Request,
};

/// Why a client may not do what it asks for; `None` if it may. Names the right that is missing.
pub(super) fn check(rights: &Rights, request: &Request<'_>) -> Option<String> {
    let lacks = |allowed: bool, right: &str, of: &str| (!allowed).then(|| lacking(right, of));
    match request {
        Request::Auth { .. } | Request::Ping | Request::Leave { .. } => None,
        Request::Join {
            channel, members, ..
        } => lacks(rights.may_join(channel), "join", channel).or_else(|| {
            let allowed = !members || rights.may_see_members(channel);
            lacks(allowed, "members", channel)
        }),
        Request::Attend { channel } => lacks(rights.may_join(channel), "join", channel),
        Request::Members { channel, .. } | Request::Roster { channel } => {
            lacks(rights.may_see_members(channel), "members", channel)
        }
        Request::Send { channel, .. } => lacks(rights.may_send(channel), "send", channel),
        Request::Broadcast { .. } => lacks(rights.may_broadcast(), "broadcast", ""),
        Request::Publish { .. } => lacks(rights.may_publish(), "publish", ""),
        Request::Update { .. } => lacks(rights.may_update(), "update", ""),
        Request::Call { name, .. } => lacks(rights.may_call(name), "call", name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::native;

    #[test]
    fn every_operation_needs_its_own_right_and_no_other() {
        let all = [
            "join",
            "send",
            "members",
            "call",
            "broadcast",
            "publish",
            "update",
        ];
        let right = |name: &str| match name {
            "broadcast" | "publish" | "update" => format!("\"{name}\":true"),
            _ => format!("\"{name}\":[\"x\"]"),
        };
        let cases: [(&str, &[&str]); 11] = [
            (r#"{"op":"ping"}"#, &[]),
            (r#"{"op":"auth","token":"t"}"#, &[]),
            (r#"{"op":"leave","channel":"x"}"#, &[]),
            (r#"{"op":"join","channel":"x"}"#, &["join"]),
            (
                r#"{"op":"join","channel":"x","members":true}"#,
                &["join", "members"],
            ),
            (r#"{"op":"members","channel":"x"}"#, &["members"]),
            (r#"{"op":"send","channel":"x","event":"e"}"#, &["send"]),
            (r#"{"op":"broadcast","event":"e"}"#, &["broadcast"]),
            (
                r#"{"op":"publish","users":["u"],"event":"e"}"#,
                &["publish"],
            ),
            (r#"{"op":"update","data":{}}"#, &["update"]),
            (r#"{"op":"call","name":"x"}"#, &["call"]),
        ];
        for (message, needed) in cases {
            let call = native::parse(message).unwrap();
            let with = |names: &[&str]| {
                let list: Vec<String> = names.iter().map(|name| right(name)).collect();
                check(
                    &Rights::parse(&format!("{{{}}}", list.join(","))).unwrap(),
                    &call.request,
                )
            };
            assert_eq!(with(needed), None, "{message}");
            for missing in all {
                let others: Vec<&str> = all.into_iter().filter(|name| *name != missing).collect();
                let refused = with(&others);
                assert_eq!(
                    refused.is_some(),
                    needed.contains(&missing),
                    "{message} without {missing}"
                );
                assert!(
                    refused.is_none_or(|text| text.contains(&format!("\"{missing}\""))),
                    "{message}"
                );
            }
            let elsewhere =
                Rights::parse(r#"{"join":["y"],"send":["y"],"members":["y"],"call":["y"]}"#)
                    .unwrap();
            assert_eq!(
                check(&elsewhere, &call.request).is_some(),
                !needed.is_empty(),
                "{message}"
            );
        }
    }
}
