//! Packets of other systems' protocols that are wrong in every way that their kinds can be.

use super::super::arms::text;
use crate::client::frames;

/// What a client of one protocol sends.
pub(super) struct Packets {
    /// Where it connects.
    pub(super) path: &'static str,
    /// WebSocket frames, as they go over the wire.
    pub(super) frames: Vec<Vec<u8>>,
    /// Bodies of polling.
    pub(super) posted: Vec<String>,
}

/// Opcodes of WebSocket, with its bit for the last frame of a message.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;

/// So long that a bound holds it, whichever that is.
const LONG: usize = 60_000;

/// Engine.IO: kinds that a client does not send, or not now, or that there are not.
const ENGINE_IO: &str = "
    0 0{} 1 1x 3 3probe 2 2probe 5 6 6x 7 9 x b b! bAAA bAAAA
";

/// Socket.IO: each kind without what must follow, and with what must not.
const SOCKET_IO: &str = r#"
    4 4x 47 49 4-1
    40 40{ 40[] 40null 40"x" 40{"token":5} 40{"token":"a.b.c"} 40/ 40/, 40/other 40/other, 40/other,{ 40/other?x=1,
    41 41x 41/other,
    42 42{} 42null 42[ 42[] 42[1] 42[null] 42[[]] 42[{}] 42["e" 42["e"]] 42["connect"] 42["connect_error",1]
    42["disconnect"] 42["__proto__",{}] 42[""] 42["e",1e999] 42["\ud800"] 42-1["e"] 4218446744073709551616["e"] 421["e"]
    42/other,["e"] 42["join"] 42["join",5] 421["join",{}] 42["leave",null] 421["send"] 42["send",[]]
    43 43[] 431 431{} 431[] 4318446744073709551616[]
    44 44{} 44{"message":"m"}
"#;

/// Binary: numbers of attachments that are none, and attachments that do not come, or were not announced.
const ATTACHMENTS: &str = r#"
    45 45- 45-["e"] 450-["e"] 451["e"] 451- 451-["e"] 451-["e",{"_placeholder":true,"num":0}]
    451-["e",{"_placeholder":true,"num":9}] 451-["e",{"_placeholder":true,"num":-1}] 451-["e",{"_placeholder":true}]
    452-["e",{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]
    4518446744073709551616-["e",{"_placeholder":true,"num":0}] 45100000-["e",{"_placeholder":true,"num":0}]
    46 461-[] 461-1[] 461-1[{"_placeholder":true,"num":0}]
"#;

const MESA: &str = r#"
    null [] 1 "op" { {} {"d":{}} {"op":null} {"op":"0"} {"op":-1} {"op":1.5} {"op":1e99} {"op":18446744073709551616}
    {"op":3,"d":{}} {"op":0} {"op":0,"d":null} {"op":0,"d":{}} {"op":0,"d":{},"t":5} {"op":0,"d":{},"t":""}
    {"op":0,"d":{},"t":"X","s":-1} {"op":0,"d":{"v":[]},"t":"CLIENT_VERSION"} {"op":0,"d":{},"t":"\ud800"} {"op":0,"d":1}x
    {"op":0,"op":2,"d":{}} {"op":1} {"op":1,"d":{"tries":-1}}
    {"op":2} {"op":2,"d":null} {"op":2,"d":[]} {"op":2,"d":{}} {"op":2,"d":{"token":5}} {"op":2,"d":{"token":""}}
    {"op":2,"d":{"token":"a.b.c"}} {"op":2,"d":{"token":"","shouldSync":"x"}} {"op":5,"d":{},"t":"DISCONNECT_CLIENT"}
    {"op":10,"d":{}} {"op":11} {"op":11,"d":[1]} {"op":22,"d":{}}
"#;

const ZEXCORE: &str = r#"
    null [] 1 "type" { {} {"id":1} {"type":null} {"type":5} {"type":""} {"type":"unknown"} {"id":1,"type":"unknown"}
    {"type":"\ud800"} {"type":"auth"}x {"type":"auth","type":"invoke"} {"event":"e","data":[1]} {"id":1,"data":true}
    {"type":"auth"} {"type":"auth","data":null} {"type":"auth","data":[]} {"type":"auth","data":[1]}
    {"type":"auth","data":["a.b.c"]} {"type":"auth","data":["a","b"]} {"id":{},"type":"auth","data":[""]}
    {"type":"invoke"} {"id":1,"type":"invoke"} {"id":1,"type":"invoke","data":[],"function":5}
    {"id":1,"type":"invoke","data":"x","function":"f"} {"id":1,"type":"invoke","data":[1],"function":""}
    {"id":1,"type":"invoke","data":[1],"function":"nobody"} {"type":"subscribe"}
    {"id":1,"type":"subscribe","event":5,"tags":[]} {"id":1,"type":"subscribe","event":"e","tags":"x"}
    {"id":1,"type":"subscribe","event":"e","tags":[1,null,{}]} {"id":1,"type":"subscribe","event":"","tags":[]}
"#;

/// The packets that stand between white space in `texts`, and the empty one.
fn words(texts: &[&str]) -> Vec<String> {
    let words = texts.iter().flat_map(|text| text.split_ascii_whitespace());
    words.map(str::to_owned).chain([String::new()]).collect()
}

/// JSON that nests deeper than anyone reads.
fn deep() -> String {
    format!("{}{}", "[".repeat(LONG / 2), "]".repeat(LONG / 2))
}

/// These texts as frames, and frames that are none of any protocol here: binary, and text that is no UTF-8.
fn framed(texts: &[String]) -> Vec<Vec<u8>> {
    let mut all: Vec<_> = texts.iter().map(|packet| text(packet)).collect();
    all.push(frames::raw(BINARY, b""));
    all.push(frames::raw(BINARY, b"\x00\x01\xff4"));
    all.push(frames::raw(TEXT, b"4\xff\xfe"));
    all
}

/// Engine.IO's and Socket.IO's.
pub(super) fn socket_io() -> Packets {
    let mut texts = words(&[ENGINE_IO, SOCKET_IO, ATTACHMENTS]);
    let (deep, long) = (deep(), "n".repeat(LONG));
    let placeholders = vec![r#"{"_placeholder":true,"num":0}"#; 1000].join(",");
    texts.extend([
        "\u{0}".to_owned(),
        "\u{1e}".to_owned(),
        format!(r#"42["e",{deep}]"#),
        format!("40{deep}"),
        format!("40/{long},"),
        format!("42/{long}"),
        format!(r#"42["{long}"]"#),
        format!(r#"42{}["e"]"#, "9".repeat(LONG)),
        format!(r#"45{}-["e"]"#, "1".repeat(LONG)),
        format!(r#"451-["e",{placeholders}]"#),
    ]);
    Packets {
        path: "/socket.io/?EIO=4&transport=websocket",
        frames: framed(&texts),
        posted: texts,
    }
}

/// Mesa's.
pub(super) fn mesa() -> Packets {
    let mut texts = words(&[MESA]);
    let (deep, long) = (deep(), "n".repeat(LONG));
    texts.extend([
        format!(r#"{{"op":0,"d":{deep},"t":"X"}}"#),
        format!(r#"{{"op":2,"d":{deep}}}"#),
        format!(r#"{{"op":0,"d":{{}},"t":"{long}"}}"#),
        format!(r#"{{"op":2,"d":{{"token":"{long}"}}}}"#),
        format!(r#"{{"{long}":0}}"#),
    ]);
    Packets {
        path: "/mesa",
        frames: framed(&texts),
        posted: Vec::new(),
    }
}

/// Zexcore RTM's.
pub(super) fn zexcore() -> Packets {
    let mut texts = words(&[ZEXCORE]);
    let (deep, long) = (deep(), "n".repeat(LONG));
    let tags = vec![r#""t""#; 10_000].join(",");
    texts.extend([
        format!(r#"{{"id":1,"type":"invoke","data":{deep},"function":"f"}}"#),
        format!(r#"{{"id":{deep},"type":"auth","data":[""]}}"#),
        format!(r#"{{"type":"{long}"}}"#),
        format!(r#"{{"id":"{long}","type":"subscribe","event":"e","tags":[]}}"#),
        format!(r#"{{"id":1,"type":"subscribe","event":"e","tags":[{tags}]}}"#),
        format!(r#"{{"type":"auth","data":["{long}"]}}"#),
    ]);
    Packets {
        path: "/rtm",
        frames: framed(&texts),
        posted: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_packet_is_there_and_fits_into_a_frame() {
        let all = [socket_io(), mesa(), zexcore()];
        for packets in &all {
            assert!(packets.frames.len() > 30, "{}", packets.path);
            // A frame has two bytes for its length.
            let is_short = |frame: &Vec<u8>| frame.len() <= 65_535 + 8;
            assert!(packets.frames.iter().all(is_short), "{}", packets.path);
        }
        for kind in ["40", "41", "42", "43", "44", "45", "46"] {
            let of_kind = |packet: &&String| packet.starts_with(kind);
            assert!(all[0].posted.iter().filter(of_kind).count() > 2, "{kind}");
        }
    }
}
