//! As much HTTP/1.1 as the harness needs: heads, and bodies with a length.

use std::net::SocketAddr;

/// One message at the front of `bytes`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message<'b> {
    /// Request line or status line.
    pub(crate) first_line: &'b str,
    /// What follows the head, with the lengths of its chunks if it has any.
    pub(crate) body: &'b [u8],
    /// Length of head and body.
    pub(crate) bytes: usize,
    /// Whether the connection ends behind it.
    pub(crate) is_last: bool,
}

impl Message<'_> {
    /// The status of an answer.
    pub(crate) fn status(&self) -> u16 {
        self.first_line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0)
    }
}

/// A client's upgrade request; `more` are further header lines.
pub(crate) fn upgrade(to: SocketAddr, path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// A request with a body of JSON, on a connection that is kept; `more` are further header lines.
pub(crate) fn post(to: SocketAddr, path: &str, more: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {to}\r\n{more}Content-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The first message of `bytes`, once it is whole.
pub(crate) fn parse(bytes: &[u8]) -> Option<Message<'_>> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).unwrap_or("");
    let (first_line, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    let field = |wanted: &str| {
        let mut fields = fields.split("\r\n").filter_map(|line| line.split_once(':'));
        fields
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.trim())
    };
    let is_chunked =
        field("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    let length = if is_chunked {
        chunks(&bytes[end + 4..])?
    } else {
        field("content-length")
            .and_then(|value| value.parse().ok())
            .unwrap_or(0)
    };
    let body = bytes.get(end + 4..end + 4 + length)?;
    let is_last = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Some(Message {
        first_line,
        body,
        bytes: end + 4 + length,
        is_last,
    })
}

/// The length of a body in chunks, once all of it is there.
fn chunks(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = body
            .get(at..)?
            .windows(2)
            .position(|window| window == b"\r\n")?;
        let digits = std::str::from_utf8(&body[at..at + line])
            .ok()?
            .split(';')
            .next()?;
        let length = u32::from_str_radix(digits.trim(), 16).ok()? as usize;
        at += line + 2 + length + 2;
        if length == 0 {
            return (at <= body.len()).then_some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_parsed_once_it_is_whole() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 503 No\r\n\r\n";
        assert!((0..40).all(|cut| parse(&whole[..cut]).is_none()));
        let first = parse(whole).unwrap();
        assert_eq!((first.status(), first.body), (200, &b"{}"[..]));
        assert_eq!(parse(&whole[first.bytes..]).unwrap().status(), 503);
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        assert!((0..chunked.len()).all(|cut| parse(&chunked[..cut]).is_none()));
        assert_eq!(parse(chunked).unwrap().bytes, chunked.len());
        assert!(!first.is_last);
        assert!(
            parse(b"HTTP/1.1 200 OK\r\nconnection: Close\r\n\r\n")
                .unwrap()
                .is_last
        );
    }
}
