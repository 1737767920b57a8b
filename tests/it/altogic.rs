//! Clients of Altogic and Agnost by their frames. Their own libraries are in `tests/clients`.

use std::time::Duration;

use crate::support::*;
use fanfare::{
    ProtocolKind,
    config::{ClientAuth, ClientKeyConfig, Config, Scopes},
};
use serde_json::{Value, json};

const PATH: &str = "/socket.io/?EIO=4&transport=websocket";

/// A server for clients of Altogic, configured further by `change`.
fn serve(change: impl FnOnce(&mut Config)) -> TestServer {
    keyed_server(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.protocols.enable(ProtocolKind::Altogic);
        app.protocols.enable(ProtocolKind::Agnost);
        app.default_can = Some(json!({"join": ["*"], "send": ["*"], "members": ["*"]}));
        change(config);
    })
}

fn client_key(key: &str, auth: ClientAuth, can: Value) -> ClientKeyConfig {
    ClientKeyConfig {
        name: key.to_owned(),
        key: key.to_owned(),
        client_auth: Some(auth),
        origins: None,
        can: Some(can),
    }
}

trait SocketIo {
    fn say(&mut self, text: &str);
    /// The next packet that is no sign of life.
    fn heard(&mut self) -> String;
}

impl SocketIo for Client {
    fn say(&mut self, text: &str) {
        self.frame(0x81, text.as_bytes());
    }

    fn heard(&mut self) -> String {
        loop {
            let text = self.text();
            if text != "2" {
                return text;
            }
            self.say("3");
        }
    }
}

/// A client at `path` that has heard the server's first packet.
fn opened(server: &TestServer, path: &str) -> Client {
    let mut client = Client::open(server.address(), path, &[]).unwrap();
    let open = client.text();
    let open: Value = serde_json::from_str(open.strip_prefix('0').unwrap()).unwrap();
    assert_eq!(open["upgrades"], json!([]));
    client
}

/// A client that is let in with `auth`.
fn entered(server: &TestServer, auth: &Value) -> Client {
    let mut client = opened(server, PATH);
    client.say(&format!("40{auth}"));
    let said = client.heard();
    let said: Value = serde_json::from_str(said.strip_prefix("40").unwrap()).unwrap();
    said["sid"].as_str().unwrap().clone_into(&mut client.id);
    client
}

#[test]
fn a_client_joins_by_any_name_and_hears_of_itself_and_of_others() {
    let server = serve(|_| {});
    let mut one = entered(&server, &json!({"clientKey": "any", "echoMessages": true}));
    one.say(r#"42["join",{"channel":"Room #1"}]"#);
    let about = |event: &str, id: &str| {
        format!(r#"42["{event}",{{"channel":"Room #1","message":{{"id":"{id}"}}}}]"#)
    };
    assert_eq!(one.heard(), about("channel:join", &one.id));
    let mut native = server.connect("");
    native.join("Room=20=231");
    assert_eq!(one.heard(), about("channel:join", &native.id));
    one.say(r#"42["message",{"channel":"Room #1","eventName":"hi","message":[1.0]}]"#);
    assert_eq!(
        one.heard(),
        r#"42["hi",{"channel":"Room #1","message":[1.0]}]"#
    );
    let event = native.json();
    assert_eq!(
        (&event["channel"], &event["data"]),
        (&json!("Room=20=231"), &json!([1.0]))
    );
    let id = native.id.clone();
    drop(native);
    assert_eq!(one.heard(), about("channel:leave", &id));
}

#[test]
fn a_user_whose_connection_breaks_has_left_at_once() {
    // A native client could resume for an hour.
    let server = serve(|config| config.limits.resume_window = Duration::from_hours(1));
    let token = server
        .post_as(KEY, "/v1/tokens", &json!({"user": "ann"}))
        .json();
    let mut watcher = server.connect("");
    watcher.watch("room");
    let mut ann = entered(&server, &json!({"Session": token["token"]}));
    ann.say(r#"42["join",{"channel":"room","echo":false}]"#);
    assert_eq!(watcher.json()["kind"], "joined");
    let id = ann.id.clone();
    drop(ann);
    let left = watcher.json();
    assert_eq!(
        (&left["kind"], &left["member"]["id"]),
        (&json!("left"), &json!(id))
    );
}

#[test]
fn a_client_key_gives_its_own_rights_to_those_without_a_token() {
    let server = serve(|config| {
        let app = config.apps.values_mut().next().unwrap();
        let can = json!({"join": ["open"]});
        app.client_keys
            .push(client_key("pk_readers", ClientAuth::Optional, can));
    });
    let mut reader = entered(&server, &json!({"clientKey": "pk_readers"}));
    for event in [
        "join\",{\"channel\":\"shut\"",
        "message\",{\"channel\":\"open\",\"eventName\":\"e\"",
    ] {
        reader.say(&format!("42[\"{event}}}]"));
        let error = reader.heard();
        assert!(
            error.starts_with(r#"42["error",{"origin":"client_error","code":"forbidden""#),
            "{error}"
        );
    }
    reader.say(r#"42["join",{"channel":"open"}]"#);
    assert!(reader.heard().starts_with(r#"42["channel:join""#));
}

#[test]
fn whoever_may_not_come_in_is_told_by_connect_error() {
    let server = serve(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.client_keys
            .push(client_key("pk_members", ClientAuth::Required, json!({})));
    });
    let agnost = "/realtime/realtime/?EIO=4&transport=websocket";
    for (path, auth, code) in [
        (PATH, json!({}), "missing_client_key"),
        (PATH, json!({"clientKey": "x"}), "invalid_client_key"),
        (agnost, json!({"apiKey": "x"}), "invalid_api_key"),
        (
            PATH,
            json!({"clientKey": "pk_members"}),
            "missing_session_token",
        ),
        (
            PATH,
            json!({"clientKey": "pk_members", "Session": "a.b.c"}),
            "invalid_session_token",
        ),
        (agnost, json!({"accessToken": "x"}), "invalid_access_token"),
    ] {
        let mut client = opened(&server, path);
        client.say(&format!("40{auth}"));
        let error = client.heard();
        let error: Value = serde_json::from_str(error.strip_prefix("44").unwrap()).unwrap();
        assert_eq!(error["data"]["code"], code);
        assert_eq!(client.closed(), 4001);
    }
    let mut elsewhere = opened(&server, PATH);
    elsewhere.say("40/admin,");
    assert_eq!(
        elsewhere.heard(),
        r#"44/admin,{"message":"Invalid namespace","data":{"message":"clients of Altogic and Agnost are in \"/\" only"}}"#
    );
}

#[test]
fn signs_of_life_are_asked_for_and_answered_in_the_clients_own_way() {
    let server = serve(|config| {
        config.limits.heartbeat = Duration::from_secs(3);
        config.limits.heartbeat_wait = Duration::from_secs(2);
    });
    let mut lively = entered(&server, &json!({}));
    let mut dead = entered(&server, &json!({}));
    for _ in 0..3 {
        assert_eq!(lively.text(), "2");
        lively.say("3");
    }
    assert_eq!(dead.text(), "2");
    assert_eq!(dead.closed(), 4201);
    lively.say(r#"42["join",{"channel":"room"}]"#);
    assert!(lively.heard().starts_with(r#"42["channel:join""#));
}

#[test]
fn a_malformed_packet_ends_its_own_connection_only() {
    let server = serve(|_| {});
    let mut bystander = entered(&server, &json!({}));
    for text in [
        "",
        "7",
        "0{}",
        "4",
        "4x",
        "42{",
        "42[1]",
        "42",
        "451[\"a\"]",
        "42[\"a\"]x",
    ] {
        let mut client = entered(&server, &json!({}));
        client.say(text);
        let mut said = Vec::new();
        while let Received::Text(text) = client.message() {
            said.push(text);
        }
        assert_eq!(
            said.last().map(String::as_str),
            Some("41"),
            "{text}: {said:?}"
        );
    }
    bystander.say(r#"42["join",{"channel":"room"}]"#);
    assert!(bystander.heard().starts_with(r#"42["channel:join""#));
}

#[test]
fn a_server_library_speaks_for_nobody() {
    let server = serve(|_| {});
    let mut library = opened(&server, "/realtime/?EIO=4&transport=websocket");
    library.say(&format!("40{}", json!({"accessToken": KEY})));
    assert!(library.heard().starts_with("40{"));
    let mut native = server.connect("");
    native.join("room");
    library.say(r#"42["send_message",{"channelName":"room","eventName":"e","message":1}]"#);
    let event = native.json();
    assert_eq!((&event["data"], event.get("from")), (&json!(1), None));
    library.say(r#"427["get_members",{"envId":"x","channel":"room"}]"#);
    assert_eq!(
        library.heard(),
        format!(r#"437[[{{"id":"{}"}}]]"#, native.id)
    );
}

#[test]
fn what_a_client_is_told_of_itself_in_all_its_channels_is_charged() {
    const CHANNELS: usize = 100;
    let server = serve(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.default_can = Some(json!({"join": ["*"], "update": true}));
        config.limits.message_burst = CHANNELS as u32 + 10;
        config.limits.messages_per_second = 1;
    });
    let token = server
        .post_as(KEY, "/v1/tokens", &json!({"user": "ann"}))
        .json();
    let mut ann = entered(&server, &json!({"Session": token["token"]}));
    for nth in 0..CHANNELS {
        ann.say(&format!(
            r#"42["join",{{"channel":"room-{nth}","echo":false}}]"#
        ));
    }
    let profile = "x".repeat(8000);
    let update = format!(r#"42["update",{{"data":"{profile}"}}]"#);
    ann.say(&update);
    for _ in 0..CHANNELS {
        let told = ann.heard();
        assert!(told.starts_with(r#"42["channel:update",{"#), "{told:.80}");
    }
    // That was as much as 48 messages more, of which there were fewer than ten left.
    ann.say(&update);
    let refused = ann.heard();
    assert!(refused.contains("rate_limited"), "{refused:.200}");
}

#[test]
fn apps_share_a_path_by_the_names_of_the_server() {
    let server = serve(|config| {
        let mut second = config.apps["default"].clone();
        let keys = [client_key(
            "pk_of_the_second_app",
            ClientAuth::Optional,
            json!({"join": ["*"]}),
        )];
        second.client_keys = keys.to_vec();
        second.keys.clear();
        second.keys.push(api_key(
            "two",
            "api-key-of-the-second-app-0123456789",
            Scopes::ALL,
        ));
        let altogic = second.protocols.altogic.as_mut().unwrap();
        altogic.hosts = vec!["realtime.Two.example".to_owned()];
        second.protocols.agnost = None;
        config.apps.insert("two".to_owned(), second);
    });
    let at = |host: &str, key: &str| {
        let mut client = Client::open(server.address(), PATH, &[("Host", host)]).unwrap();
        client.text();
        client.say(&format!("40{}", json!({"clientKey": key})));
        client.heard()
    };
    // The first app has no client keys, and takes any.
    assert!(at("realtime.one.example", "any").starts_with("40{"));
    assert!(at("realtime.two.example:7070", "pk_of_the_second_app").starts_with("40{"));
    let refused = at("REALTIME.two.example", "any");
    assert!(refused.contains("invalid_client_key"), "{refused}");
}

#[test]
fn a_host_of_no_app_is_named_where_apps_share_a_path() {
    let server = serve(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.protocols.altogic.as_mut().unwrap().hosts = vec!["realtime.one.example".to_owned()];
    });
    let open = |host: &str| Client::open(server.address(), PATH, &[("Host", host)]);
    assert!(open("realtime.one.example").is_ok());
    let refused = open("realtime.two.example:80").err().unwrap();
    assert_eq!(refused.status, 404);
    let problem = refused.json();
    assert_eq!(problem["code"], "unknown_app");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("\"realtime.two.example\""),
        "{problem}"
    );
}
