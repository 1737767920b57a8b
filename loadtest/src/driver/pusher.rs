//! Pusher's protocol 7, as Sockudo speaks it.

use std::{
    net::SocketAddr,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use data_encoding::HEXLOWER;
use md5::{Digest, Md5};
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::{Dialect, Recipients, Step};
use crate::{
    cli::Target,
    error::{Result, failed},
    http, token,
};

/// Sockudo's program, unless another is named.
pub(super) const PROGRAM: &str = "sockudo";

const EVERYONE: &str = "everyone";

/// The app that clients and callers use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pusher {
    id: String,
    key: String,
    secret: String,
}

impl Pusher {
    pub(super) fn new(target: &Target) -> Result<Self> {
        let api_key = target
            .api_key
            .as_deref()
            .unwrap_or("load:load-key:load-secret");
        match api_key.split(':').collect::<Vec<_>>()[..] {
            [id, key, secret] => Ok(Self {
                id: id.into(),
                key: key.into(),
                secret: secret.into(),
            }),
            _ => failed("the --api-key of sockudo is its app's ID:KEY:SECRET"),
        }
    }

    /// The request target that publishes `body` at a time, which is signed with it.
    fn signed_path(&self, now: u64, body: &str) -> String {
        let Self { id, key, secret } = self;
        let path = format!("/apps/{id}/events");
        let md5 = HEXLOWER.encode(&Md5::digest(body));
        let query = format!("auth_key={key}&auth_timestamp={now}&auth_version=1.0&body_md5={md5}");
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let signature = hmac::sign(&secret, format!("POST\n{path}\n{query}").as_bytes());
        format!(
            "{path}?{query}&auth_signature={}",
            HEXLOWER.encode(signature.as_ref())
        )
    }
}

/// What starts Sockudo on `address`: as it is by default, but with one app, and without limits on connections and
/// requests.
pub(super) fn command(target: &Target, address: SocketAddr) -> Result<Command> {
    let Pusher { id, key, secret } = Pusher::new(target)?;
    let mut command = Command::new(target.place().program_or(PROGRAM));
    command
        .env("HOST", address.ip().to_string())
        .env("PORT", address.port().to_string())
        .env("SOCKUDO_DEFAULT_APP_ID", id)
        .env("SOCKUDO_DEFAULT_APP_KEY", key)
        .env("SOCKUDO_DEFAULT_APP_SECRET", secret)
        .env("SOCKUDO_DEFAULT_APP_MAX_CONNECTIONS", "1000000")
        .env(
            "SOCKUDO_DEFAULT_APP_MAX_BACKEND_EVENTS_PER_SECOND",
            "1000000",
        )
        .env("RATE_LIMITER_ENABLED", "false")
        // It would listen on a port of its own.
        .env("METRICS_ENABLED", "false")
        .env("RUST_LOG", "error")
        // Clients are gone when it is stopped; what lingers is not waited for.
        .env("SHUTDOWN_GRACE_PERIOD", "0")
        .args(&target.server_arg);
    Ok(command)
}

fn channel(user: usize) -> String {
    format!("user-{}", token::name(user))
}

/// Whether a frame is this event of the protocol itself; the name stands first.
fn is(frame: &[u8], event: &str) -> bool {
    frame
        .strip_prefix(br#"{"event":""#)
        .is_some_and(|rest| rest.starts_with(event.as_bytes()))
}

impl Dialect for Pusher {
    fn handshake(&self, to: SocketAddr, _: usize) -> String {
        http::upgrade(
            to,
            &format!("/app/{}?protocol=7&client=load&version=1", self.key),
            "",
        )
    }

    fn open(&self, user: usize, heard: &mut u8, frame: Option<&[u8]>) -> Step {
        let Some(frame) = frame else {
            return Step::Wait;
        };
        if is(frame, "pusher:connection_established") {
            let subscribe = |channel| {
                format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"{channel}"}}}}"#)
            };
            return Step::Say(vec![subscribe(EVERYONE.into()), subscribe(channel(user))]);
        }
        if is(frame, "pusher:error") || is(frame, "pusher:subscription_error") {
            return Step::Refused(String::from_utf8_lossy(frame).into_owned());
        }
        *heard += u8::from(is(frame, "pusher_internal:subscription_succeeded"));
        match self.ping(frame) {
            _ if *heard == 2 => Step::Open,
            Some(answer) => Step::Say(vec![answer.into()]),
            None => Step::Wait,
        }
    }

    fn ping(&self, frame: &[u8]) -> Option<&'static str> {
        is(frame, "pusher:ping").then_some(r#"{"event":"pusher:pong","data":{}}"#)
    }

    fn emit(&self, to: SocketAddr, recipients: Recipients, data: &str) -> Vec<u8> {
        let channel = match recipients {
            Recipients::User(user) => channel(user),
            Recipients::Everyone | Recipients::Matching(_) => EVERYONE.into(),
        };
        // The data of an event is a string, which holds JSON.
        let data = serde_json::Value::from(data);
        let body = format!(r#"{{"name":"load","channels":["{channel}"],"data":{data}}}"#);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        http::post(to, &self.signed_path(now, &body), "", &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pusher() -> Pusher {
        Pusher {
            id: "3".into(),
            key: "278d425bdf160c739803".into(),
            secret: "7ad3773142a6692b25b8".into(),
        }
    }

    fn open(heard: &mut u8, frame: &str) -> Step {
        pusher().open(6, heard, Some(frame.as_bytes()))
    }

    #[test]
    fn a_client_is_open_when_it_has_both_its_channels() {
        let mut heard = 0;
        let greeting =
            r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.2\"}"}"#;
        let Step::Say(commands) = open(&mut heard, greeting) else {
            panic!("nothing is said")
        };
        assert!(
            commands[0].contains(r#""channel":"everyone""#),
            "{commands:?}"
        );
        assert!(
            commands[1].contains(r#""channel":"user-u6""#),
            "{commands:?}"
        );
        let subscribed =
            r#"{"event":"pusher_internal:subscription_succeeded","channel":"c","data":"{}"}"#;
        assert_eq!(open(&mut heard, subscribed), Step::Wait);
        assert_eq!(open(&mut heard, subscribed), Step::Open);
        let error = r#"{"event":"pusher:error","data":{"code":4004}}"#;
        assert_eq!(open(&mut 0, error), Step::Refused(error.into()));
    }

    #[test]
    fn pings_are_told_from_events() {
        let pong = r#"{"event":"pusher:pong","data":{}}"#;
        assert_eq!(
            pusher().ping(br#"{"event":"pusher:ping","data":{}}"#),
            Some(pong)
        );
        assert_eq!(
            pusher().ping(br#"{"event":"load","channel":"everyone","data":"\"~1\""}"#),
            None
        );
    }

    /// The example of the protocol's documentation.
    #[test]
    fn requests_are_signed_as_documented() {
        let body = r#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
        let path = pusher().signed_path(1_353_088_179, body);
        assert!(
            path.contains("body_md5=ec365a775a4cd0599faeb73354201b6f"),
            "{path}"
        );
        let signature = "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c";
        assert!(
            path.ends_with(&format!("&auth_signature={signature}")),
            "{path}"
        );
    }

    #[test]
    fn the_data_of_an_emit_is_a_string_that_holds_json() {
        let to = SocketAddr::from(([127, 0, 0, 1], 9));
        for (recipients, channel) in [
            (Recipients::Everyone, "everyone"),
            (Recipients::User(2), "user-u2"),
        ] {
            let request = String::from_utf8(pusher().emit(to, recipients, "\"~1\"")).unwrap();
            let body = request.split_once("\r\n\r\n").unwrap().1;
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["channels"][0], channel);
            assert_eq!(body["data"], "\"~1\"");
        }
    }
}
