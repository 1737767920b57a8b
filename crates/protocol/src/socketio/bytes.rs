//! Bytes inside of JSON: placeholders with attachments for Socket.IO's clients, base64 for native ones.
//!
//! Both forms are looked for as text, exactly as they are written here and by Socket.IO's clients. In valid JSON neither can
//! begin inside of a string: its `{"` would end the string there, and no comma or bracket follows.

use data_encoding::BASE64;
use serde_json::value::RawValue;

use crate::{engineio::Malformed, limits::SOCKETIO_ATTACHMENTS};

const PLACEHOLDER: &str = r#"{"_placeholder":true,"num":"#;
const INLINE: &str = r#"{"$bytes":""#;
const INLINE_END: &str = "\"}";

/// The number of the attachment that `value` stands for, if it is nothing but a placeholder.
pub fn placeholder(value: &RawValue) -> Option<usize> {
    let number = value.get().strip_prefix(PLACEHOLDER)?.strip_suffix('}')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| number.parse().ok()).flatten()
}

/// `json` with each placeholder replaced by its attachment's bytes as native JSON has them.
///
/// # Errors
/// [`Malformed`] unless each attachment is used exactly once: one that is used again and again would grow without bound.
pub fn inline(json: &str, attachments: &[Box<[u8]>]) -> Result<String, Malformed> {
    let wrong = Malformed("the placeholders of a packet do not fit its attachments");
    let bytes: usize = attachments.iter().map(|bytes| bytes.len()).sum();
    let mut out = String::with_capacity(json.len() + bytes * 4 / 3 + attachments.len() * 16);
    let mut used = [false; SOCKETIO_ATTACHMENTS];
    let mut rest = json;

    while let Some((before, behind)) = rest.split_once(PLACEHOLDER) {
        let (number, behind) = behind.split_once('}').ok_or(wrong)?;
        let number: usize = number.parse().map_err(|_| wrong)?;
        let attachment = attachments.get(number).ok_or(wrong)?;
        if std::mem::replace(used.get_mut(number).ok_or(wrong)?, true) {
            return Err(wrong);
        }
        out.push_str(before);
        out.push_str(INLINE);
        BASE64.encode_append(attachment, &mut out);
        out.push_str(INLINE_END);
        rest = behind;
    }

    out.push_str(rest);
    let all = used.iter().filter(|used| **used).count();
    if all == attachments.len() {
        Ok(out)
    } else {
        Err(wrong)
    }
}

/// JSON in pieces, with the attachments that go between them.
#[derive(Debug)]
pub(crate) struct Outlined {
    pub(crate) json: Vec<u8>,
    pub(crate) attachments: Vec<Vec<u8>>,
}

/// `json` with placeholders in place of bytes, and those bytes; `None` where there are none.
///
/// JSON stays as it is where it has more of them than clients take, or might have a placeholder of its own: clients
/// give up the connection where one has no attachment.
pub(crate) fn outline(json: &str) -> Option<Outlined> {
    let mut found = json.split(INLINE);
    let first = found.next()?;
    let mut outlined = Outlined {
        json: Vec::with_capacity(json.len()),
        attachments: Vec::new(),
    };

    outlined.json.extend_from_slice(first.as_bytes());
    for piece in found {
        let bytes = piece.split_once(INLINE_END).and_then(|(base64, behind)| {
            let bytes = BASE64.decode(base64.as_bytes()).ok()?;
            Some((bytes, behind))
        });

        let Some((bytes, behind)) = bytes else {
            // Something else of that name, which stays.
            outlined.json.extend_from_slice(INLINE.as_bytes());
            outlined.json.extend_from_slice(piece.as_bytes());
            continue;
        };

        let number = outlined.attachments.len();
        if number == SOCKETIO_ATTACHMENTS {
            return None;
        }

        let placeholder = format!("{PLACEHOLDER}{number}}}");
        outlined.json.extend_from_slice(placeholder.as_bytes());
        outlined.json.extend_from_slice(behind.as_bytes());
        outlined.attachments.push(bytes);
    }

    // A name may be written with escapes.
    let may_mislead = || json.contains("_placeholder") || json.contains("\\u00");
    (!outlined.attachments.is_empty() && !may_mislead()).then_some(outlined)
}

/// The placeholder of the only attachment of a packet.
pub(crate) const ONLY: &[u8] = br#"{"_placeholder":true,"num":0}"#;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn boxes(attachments: &[&[u8]]) -> Vec<Box<[u8]>> {
        attachments.iter().map(|bytes| (*bytes).into()).collect()
    }

    #[test]
    fn a_placeholder_is_nothing_beside_itself() {
        assert_eq!(
            placeholder(&raw(r#"{"_placeholder":true,"num":3}"#)),
            Some(3)
        );
        for text in [
            r#"{"_placeholder":true,"num":-1}"#,
            r#"{"_placeholder":true,"num":1.5}"#,
            r#"{"_placeholder":true,"num":1,"more":2}"#,
            r#"[{"_placeholder":true,"num":0}]"#,
            r#""{\"_placeholder\":true,\"num\":0}""#,
            "{}",
        ] {
            assert_eq!(placeholder(&raw(text)), None, "{text}");
        }
    }

    #[test]
    fn attachments_take_their_places_each_once() {
        let json = r#"["a",{"b":{"_placeholder":true,"num":1},"c":{"_placeholder":true,"num":0}}]"#;
        assert_eq!(
            inline(json, &boxes(&[b"x", b"yz"])).unwrap(),
            r#"["a",{"b":{"$bytes":"eXo="},"c":{"$bytes":"eA=="}}]"#
        );
        for (json, attachments) in [
            (r#"["a"]"#, &[&b"x"[..]][..]),
            (r#"["a",{"_placeholder":true,"num":1}]"#, &[b"x"]),
            (r#"["a",{"_placeholder":true,"num":"0"}]"#, &[b"x"]),
            (
                r#"["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]"#,
                &[b"x"],
            ),
        ] {
            assert!(inline(json, &boxes(attachments)).is_err(), "{json}");
        }
    }

    #[test]
    fn bytes_become_attachments_unless_clients_would_choke_on_them() {
        let outlined = outline(r#"{"b":{"$bytes":"eXo="},"c":[{"$bytes":""}]}"#).unwrap();
        assert_eq!(
            str::from_utf8(&outlined.json).unwrap(),
            r#"{"b":{"_placeholder":true,"num":0},"c":[{"_placeholder":true,"num":1}]}"#
        );
        assert_eq!(outlined.attachments, [b"yz".to_vec(), Vec::new()]);

        let many = [r#"{"$bytes":""}"#; SOCKETIO_ATTACHMENTS + 1].join(",");
        for json in [
            "[1]",
            r#"{"$bytes":7}"#,
            r#"{"$bytes":"no base64!"}"#,
            r#"{"$bytes":"eA==","more":1}"#,
            r#"[{"$bytes":"eA=="},{"_placeholder":true,"num":9}]"#,
            r#"[{"$bytes":"eA=="},{"\u005fplaceholder":true,"num":9}]"#,
            &format!("[{many}]"),
        ] {
            assert!(outline(json).is_none(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn what_is_inlined_is_outlined_again(
            attachments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..SOCKETIO_ATTACHMENTS),
            text in "[a-z\"{}$:,]{0,20}",
        ) {
            let text = serde_json::to_string(&text).unwrap();
            let places: Vec<String> = (0..attachments.len())
                .map(|number| format!("{PLACEHOLDER}{number}}},{text}"))
                .collect();
            let json = format!("[{}]", places.join(","));
            let boxes: Vec<Box<[u8]>> = attachments.iter().map(|bytes| bytes.clone().into()).collect();
            let native = inline(&json, &boxes).unwrap();
            prop_assert!(serde_json::from_str::<serde_json::Value>(&native).is_ok());
            let outlined = outline(&native).unwrap();
            prop_assert_eq!(String::from_utf8(outlined.json).unwrap(), json);
            prop_assert_eq!(outlined.attachments, attachments);
        }
    }
}
