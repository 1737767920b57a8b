//! Users, passwords, and TLS.

use super::{
    server::{Folder, Server, free_port},
    *,
};
use crate::config::PemFile;

#[tokio::test]
async fn a_user_with_few_rights_is_enough() {
    let server = Server::start(&[]);
    // Nodes need less; tests/cluster/acl.rs has exactly what.
    server.ask(&[
        "ACL",
        "SETUSER",
        "fan",
        "on",
        ">p@ss,word",
        "~fanfare:*",
        "&fanfare:*",
        "-@all",
        "+@pubsub",
        "+@read",
        "+@write",
        "+@scripting",
        "+info",
        "+@connection",
    ]);
    server.ask(&["ACL", "SETUSER", "default", "off"]);
    let at = |who: &str| format!("redis://{who}127.0.0.1:{}", server.port);
    works(&at("fan:p%40ss%2Cword@")).await;
    Node::start(&at("fan:wrong@")).is_down("WRONGPASS");
    Node::start(&at("")).is_down("NOAUTH");
}

#[tokio::test]
async fn a_user_without_rights_is_told_so() {
    let server = Server::start(&[]);
    server.ask(&[
        "ACL",
        "SETUSER",
        "fan",
        "on",
        ">secret",
        "~*",
        "resetchannels",
        "&other:*",
        "+@all",
    ]);
    let node = Node::start(&format!("redis://fan:secret@127.0.0.1:{}", server.port));
    node.is_down("NOPERM");
    let Health::Down { reason, .. } = node.bus.health() else {
        panic!()
    };
    assert!(
        reason.contains("fanfare:*") && !reason.contains("secret"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_password_alone_is_that_of_the_default_user() {
    let server = Server::start(&["--requirepass", "swordfish"]);
    works(&format!("redis://:swordfish@127.0.0.1:{}", server.port)).await;
}

struct Authority {
    folder: Folder,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    ca: String,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "an authority for tests");
        let folder = Folder::new();
        let ca = folder.write("ca.pem", &params.self_signed(&key).unwrap().pem());
        Self {
            folder,
            issuer: rcgen::Issuer::new(params, key),
            ca,
        }
    }

    /// The files of a certificate for `name`, and of its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        (
            self.folder.write(&format!("{name}.pem"), &certificate),
            self.folder
                .write(&format!("{name}.key"), &key.serialize_pem()),
        )
    }
}

fn pem(path: &str) -> PemFile {
    PemFile {
        path: path.into(),
        pem: std::fs::read(path).unwrap(),
    }
}

#[tokio::test]
async fn tls_is_proven_on_both_sides() {
    let authority = Authority::new();
    let (cert, key) = authority.sign("127.0.0.1");
    let tls_port = free_port();
    let _server = Server::start_on(
        free_port(),
        &[
            "--tls-port",
            &tls_port.to_string(),
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &authority.ca,
            "--tls-auth-clients",
            "yes",
        ],
    );
    let (own_cert, own_key) = authority.sign("node");
    let url = || format!("rediss://127.0.0.1:{tls_port}").parse().unwrap();
    let config = RedisConfig {
        url: url(),
        ca: Some(pem(&authority.ca)),
        cert: Some(pem(&own_cert)),
        key: Some(pem(&own_key)),
        ..RedisConfig::default()
    };
    let (mut one, two) = (
        Node::with(&config, &patient()),
        Node::with(&config, &patient()),
    );
    one.is_up();
    two.is_up();
    one.joins(user("ann")).await;
    let large = Bytes::from(vec![b'x'; 3 * 1024 * 1024]);
    assert_eq!(two.bus.publish(&user("ann"), large.clone()).await, Ok(1));
    assert_eq!(one.message().await, (user("ann"), large));

    let stranger = RedisConfig {
        url: url(),
        ca: Some(pem(&Authority::new().ca)),
        ..RedisConfig::default()
    };
    Node::with(&stranger, &patient()).is_down("certificate");
    let nobody = RedisConfig {
        cert: None,
        key: None,
        ..config.clone()
    };
    Node::with(&nobody, &patient()).is_down("Redis at");
}

#[test]
fn a_file_that_holds_no_certificate_is_named() {
    let folder = Folder::new();
    let file = folder.write("ca.pem", "nothing");
    let config = RedisConfig {
        url: "rediss://h".parse().unwrap(),
        ca: Some(pem(&file)),
        ..RedisConfig::default()
    };
    let started = Bus::start(
        &config,
        "test",
        Vec::new(),
        NodeId(1),
        &Limits::default(),
        Arc::default(),
        crate::supervisor::Supervisor::default(),
    );
    let error = started.err().unwrap().to_string();
    assert!(error.contains("ca.pem: it holds no certificate"), "{error}");
}
