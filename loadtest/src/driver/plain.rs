//! No dialect at all: a client is open once its upgrade is granted, and an event is a text frame.

use std::{net::SocketAddr, process::Command};

use serde::{Deserialize, Serialize};

use super::{Dialect, Recipients, Step};
use crate::{
    cli::{PLAIN_CONNECT, PLAIN_EMIT, PLAIN_USER, Target},
    http, token,
};

/// Paths of a plain server; `{user}` in them stands for a user's name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plain {
    connect: String,
    emit: String,
    user: String,
}

impl Plain {
    pub(super) fn new(target: &Target) -> Self {
        Self {
            connect: target.plain_connect.clone(),
            emit: target.plain_emit.clone(),
            user: target.plain_user.clone(),
        }
    }
}

impl Default for Plain {
    /// The paths of the harness's own servers.
    fn default() -> Self {
        Self {
            connect: PLAIN_CONNECT.into(),
            emit: PLAIN_EMIT.into(),
            user: PLAIN_USER.into(),
        }
    }
}

/// What starts the named program on the port of `address`, where its arguments have a place for it.
pub(super) fn command(target: &Target, address: SocketAddr) -> Command {
    let mut command = Command::new(target.place().program_or(""));
    let port = address.port().to_string();
    command.args(
        target
            .server_arg
            .iter()
            .map(|arg| arg.replace("{port}", &port)),
    );
    command
}

fn fill(path: &str, user: usize) -> String {
    path.replace("{user}", &token::name(user))
}

impl Dialect for Plain {
    fn handshake(&self, to: SocketAddr, user: usize) -> String {
        http::upgrade(to, &fill(&self.connect, user), "")
    }

    fn open(&self, _: usize, _: &mut u8, _: Option<&[u8]>) -> Step {
        Step::Open
    }

    fn emit(&self, to: SocketAddr, recipients: Recipients, data: &str) -> Vec<u8> {
        // As long as what the floor sends, so that all measure the same bytes.
        let event = format!(r#"{{"event":"load","data":{data}}}"#);
        match recipients {
            Recipients::User(user) => http::post(to, &fill(&self.user, user), "", &event),
            Recipients::Everyone | Recipients::Matching(_) => {
                http::post(to, &self.emit, "", &event)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_the_user_and_the_body_is_the_event() {
        let to = SocketAddr::from(([127, 0, 0, 1], 9));
        let plain = Plain {
            connect: "/c/{user}".into(),
            emit: "/all".into(),
            user: "/one/{user}?x=1".into(),
        };
        assert!(
            plain
                .handshake(to, 7)
                .starts_with("GET /c/u7 HTTP/1.1\r\nHost: 127.0.0.1:9\r\n")
        );
        assert_eq!(plain.open(7, &mut 0, None), Step::Open);
        let request = |recipients| String::from_utf8(plain.emit(to, recipients, "\"~1\"")).unwrap();
        let one = request(Recipients::User(7));
        assert!(one.starts_with("POST /one/u7?x=1 HTTP/1.1\r\n"), "{one}");
        let all = request(Recipients::Everyone);
        assert!(all.starts_with("POST /all HTTP/1.1\r\n"), "{all}");
        assert!(
            all.ends_with("Content-Length: 28\r\n\r\n{\"event\":\"load\",\"data\":\"~1\"}"),
            "{all}"
        );
    }
}
