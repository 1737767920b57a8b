//! What is taken out of a set, and what never is.

use ring::{
    rand::SystemRandom,
    signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaPublicKeyComponents},
};
use serde_json::{Value, json};

use super::*;
use crate::auth::testkeys;

fn encoded(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

fn parse(keys: &Value) -> KeySet {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes()).unwrap()
}

/// Whether the only key of the set verifies.
#[track_caller]
fn verifies(key: &Value, message: &[u8], signature: &[u8]) {
    let set = parse(&json!([key]));
    assert_eq!(set.skipped(), [""; 0], "{key}");
    assert!(set.keys[0].verifies(message, signature), "{key}");
    assert!(
        !set.keys[0].verifies(b"another message", signature),
        "{key}"
    );
}

#[test]
fn keys_of_every_known_type_verify() {
    let (random, message) = (SystemRandom::new(), b"a message");

    let ed = testkeys::ed25519();
    let key = json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(ed.public_key().as_ref())});
    verifies(&key, message, ed.sign(message).as_ref());

    let ec = testkeys::p256();
    let (x, y) = ec.public_key().as_ref()[1..].split_at(32);
    let key = json!({"kty": "EC", "crv": "P-256", "x": encoded(x), "y": encoded(y), "use": "sig", "alg": "ES256"});
    verifies(&key, message, ec.sign(&random, message).unwrap().as_ref());

    let rsa = testkeys::rsa();
    let RsaPublicKeyComponents::<Vec<u8>> { n, e } = rsa.public().into();
    let mut signature = vec![0; n.len()];
    rsa.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
        .unwrap();
    let key = |n: &[u8]| json!({"kty": "RSA", "n": encoded(n), "e": encoded(&e), "kid": "k", "x5c": ["ignored"]});
    verifies(&key(&n), message, &signature);
    verifies(&key(&[&[0], &*n].concat()), message, &signature);
}

#[test]
fn what_cannot_verify_is_skipped_with_its_reason_and_the_rest_is_used() {
    let ed = testkeys::ed25519();
    let good = json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(ed.public_key().as_ref()), "kid": "good"});
    let with = |name: &str, value: Value| {
        let mut key = good.clone();
        key[name] = value;
        key
    };
    let set = parse(&json!([
        {"kty": "oct", "k": encoded(&[7; 32]), "alg": "HS256", "kid": "shared"},
        good,
        with("use", json!("enc")),
        with("key_ops", json!(["sign"])),
        with("alg", json!("ES256")),
        with("crv", json!("Ed448")),
        with("kty", json!("AKP")),
        with("x", json!("AAAA")),
        {"kty": "RSA", "n": encoded(&[0xff; 128]), "e": "AQAB"},
        {"kty": "RSA", "n": encoded(&[0xff; 256])},
        {"kty": "EC", "crv": "P-256", "x": encoded(&[1; 32]), "y": encoded(&[1; 32])},
        {"kty": 1},
        "key",
        with("kid", json!("\u{1b}[2J")),
    ]));
    assert_eq!(set.len(), 2);
    let skipped = set.skipped();
    assert_eq!(skipped.len(), 12);
    assert_eq!(
        skipped[0],
        "key \"shared\": is a shared secret, which a public set cannot keep"
    );
    assert_eq!(
        skipped[1],
        "key \"good\": is for \"enc\", not for signatures"
    );
    assert_eq!(
        skipped[3],
        "key \"good\": is for the algorithm \"ES256\", and only EdDSA is known for its type"
    );
    assert_eq!(skipped[7], "key 8: is not a key for RS256");
    assert!(skipped.iter().all(|text| !text.contains('\u{1b}')));
}

#[test]
fn what_is_no_set_is_refused() {
    for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[}"#, "<html>"] {
        assert!(
            matches!(KeySet::parse(text.as_bytes()), Err(KeySetError::Form(_))),
            "{text}"
        );
    }
    let many = json!({"keys": vec![json!({"kty": "oct"}); JWKS_KEYS + 1]}).to_string();
    assert_eq!(
        KeySet::parse(many.as_bytes()).unwrap_err(),
        KeySetError::TooMany(JWKS_KEYS + 1)
    );
    assert!(KeySet::parse(br#"{"keys":[]}"#).unwrap().is_empty());
}
