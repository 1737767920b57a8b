//! Good tokens of every algorithm, and every way in which one is bad.

use std::time::Duration;

use proptest::prelude::*;
use ring::{
    hmac,
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use serde_json::json;
use tokio_rustls::rustls::pki_types::{AlgorithmIdentifier, alg_id};

use super::*;
use crate::auth::{SignError, testkeys};

const NOW: u64 = 1_800_000_000;
const SECRET: &str = "a-token-secret-for-tests-of-32-bytes-or-more";
const OTHER: &str = "another-secret-for-tests-of-32-bytes-or-more";

/// Signs a message as an issuer of tokens would.
type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

fn hs256(secret: &str) -> Sign {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    Box::new(move |message| hmac::sign(&key, message).as_ref().to_vec())
}

fn unsigned() -> Sign {
    Box::new(|_: &[u8]| Vec::new())
}

fn pem(der: &[u8]) -> String {
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        data_encoding::BASE64.encode(der)
    )
}

/// A `SubjectPublicKeyInfo` with a short key.
fn spki(algorithm: AlgorithmIdentifier, key: &[u8]) -> String {
    let element = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
    let bits = element(0x03, &[&[0], key].concat());
    pem(&element(
        0x30,
        &[element(0x30, algorithm.as_ref()), bits].concat(),
    ))
}

fn es256() -> (Sign, String) {
    let pair = testkeys::p256();
    let public = spki(alg_id::ECDSA_P256, pair.public_key().as_ref());
    (
        Box::new(move |message| {
            pair.sign(&SystemRandom::new(), message)
                .unwrap()
                .as_ref()
                .to_vec()
        }),
        public,
    )
}

fn eddsa() -> (Sign, String) {
    let pair = testkeys::ed25519();
    let public = spki(alg_id::ED25519, pair.public_key().as_ref());
    (
        Box::new(move |message| pair.sign(message).as_ref().to_vec()),
        public,
    )
}

fn rs256() -> (Sign, String) {
    let pair = testkeys::rsa();
    let public = testkeys::RSA_PUBLIC.to_owned();
    let sign = move |message: &[u8]| {
        let mut signature = vec![0; pair.public().modulus_len()];
        pair.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            message,
            &mut signature,
        )
        .unwrap();
        signature
    };
    (Box::new(sign), public)
}

fn write(header: &str, payload: &str, sign: &Sign) -> String {
    let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let message = format!(
        "{}.{}",
        encode(header.as_bytes()),
        encode(payload.as_bytes())
    );
    format!("{message}.{}", encode(&sign(message.as_bytes())))
}

/// A token by the shared secret.
fn token(payload: &str) -> String {
    write(r#"{"alg":"HS256","typ":"JWT"}"#, payload, &hs256(SECRET))
}

fn secret(kid: Option<&str>, secret: &str) -> TokenKeyConfig {
    TokenKeyConfig {
        kid: kid.map(str::to_owned),
        alg: TokenAlgorithm::HS256,
        key: KeyMaterial::Secret(secret.into()),
    }
}

fn public(kid: Option<&str>, alg: TokenAlgorithm, pem: &str) -> TokenKeyConfig {
    TokenKeyConfig {
        kid: kid.map(str::to_owned),
        alg,
        key: KeyMaterial::Public(pem.to_owned()),
    }
}

fn tokens(keys: Vec<TokenKeyConfig>) -> Tokens {
    Tokens::new(
        &AppConfig {
            tokens: keys,
            ..AppConfig::default()
        },
        None,
        &Limits::default(),
    )
    .unwrap()
}

#[track_caller]
fn refused(token: &str, error: &TokenError) {
    assert_eq!(
        &tokens(vec![secret(None, SECRET)])
            .verify(token, NOW)
            .unwrap_err(),
        error
    );
}

#[test]
fn a_good_token_tells_its_user_claims_and_rights() {
    let payload = r#"{ "sub":"u1", "exp":1800000060, "roles":["a"], "can":{"join":["room-*"]} }"#;
    let verified = tokens(vec![secret(None, SECRET)])
        .verify(&token(payload), NOW)
        .unwrap();
    assert_eq!(
        (&*verified.user, verified.expires_at),
        ("u1", Some(NOW + 60))
    );
    assert_eq!(&*verified.claims, payload.as_bytes());
    let rights = verified.rights.unwrap();
    assert!(rights.may_join("room-1") && !rights.may_send("room-1"));

    let verified = tokens(vec![secret(None, SECRET)])
        .verify(&token(r#"{"sub":"é"}"#), NOW)
        .unwrap();
    assert_eq!(
        (&*verified.user, verified.expires_at, verified.rights),
        ("é", None, None)
    );
}

#[test]
fn every_algorithm_verifies_its_own_and_no_other() {
    let (hs, (rs, rs_pem), (es, es_pem), (ed, ed_pem)) = (hs256(SECRET), rs256(), es256(), eddsa());
    let keys = tokens(vec![
        secret(None, SECRET),
        public(None, TokenAlgorithm::RS256, &rs_pem),
        public(None, TokenAlgorithm::ES256, &es_pem),
        public(None, TokenAlgorithm::EdDSA, &ed_pem),
    ]);
    let signers = [
        ("HS256", &hs),
        ("RS256", &rs),
        ("ES256", &es),
        ("EdDSA", &ed),
    ];
    for (claimed, _) in signers {
        for (alg, sign) in signers {
            let token = write(&json!({"alg": claimed}).to_string(), r#"{"sub":"u"}"#, sign);
            let verified = keys.verify(&token, NOW);
            assert_eq!(
                verified.is_ok(),
                claimed == alg,
                "{claimed} signed as {alg}: {verified:?}"
            );
        }
    }
}

#[test]
fn alg_none_is_refused() {
    for (alg, named) in [
        ("none", "none"),
        ("None", "not a known one"),
        ("", "not a known one"),
        ("HS256 ", "not a known one"),
        ("hs256", "not a known one"),
        ("HS384", "HS384"),
        ("HS512", "HS512"),
        ("PS256", "PS256"),
        ("ES384", "ES384"),
    ] {
        let header = json!({"alg": alg}).to_string();
        let error = TokenError::Algorithm {
            named,
            takes: "this app takes HS256".to_owned(),
        };
        refused(&write(&header, r#"{"sub":"u"}"#, &hs256(SECRET)), &error);
        refused(&write(&header, r#"{"sub":"u"}"#, &unsigned()), &error);
    }
    let bare = write(r#"{"alg":"HS256"}"#, r#"{"sub":"u"}"#, &unsigned());
    refused(&bare, &TokenError::Signature);
}

#[test]
fn a_token_of_another_algorithm_is_told_which_the_app_takes() {
    let (_, rs) = rs256();
    let (_, ed) = eddsa();
    let of = |keys: Vec<TokenKeyConfig>| {
        let token = write(r#"{"alg":"HS512"}"#, r#"{"sub":"u"}"#, &hs256(SECRET));
        tokens(keys).verify(&token, NOW).unwrap_err().to_string()
    };
    let public = |alg, pem: &str| public(None, alg, pem);
    for (keys, takes) in [
        (
            vec![secret(None, SECRET), secret(None, OTHER)],
            "this app takes HS256",
        ),
        (
            vec![
                secret(None, SECRET),
                public(TokenAlgorithm::RS256, &rs),
                public(TokenAlgorithm::EdDSA, &ed),
            ],
            "this app takes EdDSA, HS256 and RS256",
        ),
        (vec![], "this app has no key for tokens"),
    ] {
        assert_eq!(of(keys), format!("the token's algorithm is HS512; {takes}"));
    }
}

#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    let (_, pem) = rs256();
    let keys = tokens(vec![public(None, TokenAlgorithm::RS256, &pem)]);
    let forged = write(r#"{"alg":"HS256"}"#, r#"{"sub":"u"}"#, &hs256(&pem));
    assert!(matches!(
        keys.verify(&forged, NOW),
        Err(TokenError::Algorithm { .. })
    ));
    // Nor where a secret for HS256 is configured beside it.
    let keys = tokens(vec![
        public(None, TokenAlgorithm::RS256, &pem),
        secret(None, SECRET),
    ]);
    assert_eq!(
        keys.verify(&forged, NOW).unwrap_err(),
        TokenError::Signature
    );
    let named = tokens(vec![
        public(Some("k"), TokenAlgorithm::RS256, &pem),
        secret(None, SECRET),
    ]);
    let forged = write(
        r#"{"alg":"HS256","kid":"k"}"#,
        r#"{"sub":"u"}"#,
        &hs256(SECRET),
    );
    assert_eq!(
        named.verify(&forged, NOW).unwrap_err(),
        TokenError::UnknownKey
    );
}

#[test]
fn a_foreign_or_changed_token_is_refused() {
    refused(
        &write(r#"{"alg":"HS256"}"#, r#"{"sub":"u"}"#, &hs256(OTHER)),
        &TokenError::Signature,
    );
    let good = token(r#"{"sub":"user"}"#);
    let other = token(r#"{"sub":"root"}"#);
    let (message, _) = other.rsplit_once('.').unwrap();
    let (_, signature) = good.rsplit_once('.').unwrap();
    refused(&format!("{message}.{signature}"), &TokenError::Signature);
}

#[test]
fn a_kid_chooses_among_the_keys() {
    let keys = tokens(vec![
        secret(Some("old"), OTHER),
        secret(Some("new"), SECRET),
    ]);
    let sign = |header: &str, key| {
        keys.verify(&write(header, r#"{"sub":"u"}"#, &hs256(key)), NOW)
            .map(|_| ())
    };
    assert_eq!(sign(r#"{"alg":"HS256","kid":"old"}"#, OTHER), Ok(()));
    assert_eq!(sign(r#"{"alg":"HS256","kid":"new"}"#, SECRET), Ok(()));
    assert_eq!(
        sign(r#"{"alg":"HS256","kid":"new"}"#, OTHER),
        Err(TokenError::Signature)
    );
    assert_eq!(
        sign(r#"{"alg":"HS256","kid":"else"}"#, SECRET),
        Err(TokenError::UnknownKey)
    );
    assert_eq!(sign(r#"{"alg":"HS256"}"#, OTHER), Ok(()));
    assert_eq!(sign(r#"{"alg":"HS256"}"#, SECRET), Ok(()));

    let keys = tokens(vec![secret(None, OTHER), secret(None, SECRET)]);
    for secret in [OTHER, SECRET] {
        let token = write(
            r#"{"alg":"HS256","kid":"theirs"}"#,
            r#"{"sub":"u"}"#,
            &hs256(secret),
        );
        assert!(keys.verify(&token, NOW).is_ok());
    }
}

#[test]
fn a_token_without_a_kid_is_tried_with_few_public_keys() {
    let pairs: Vec<_> = (0..6)
        .map(|_| {
            let made = ring::signature::Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
            ring::signature::Ed25519KeyPair::from_pkcs8(made.unwrap().as_ref()).unwrap()
        })
        .collect();
    let keys = pairs.iter().enumerate().map(|(at, pair)| {
        let pem = spki(alg_id::ED25519, pair.public_key().as_ref());
        public(Some(&at.to_string()), TokenAlgorithm::EdDSA, &pem)
    });
    let tokens = tokens(keys.collect());
    let verified = |header: &str, at: usize| {
        let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        let message = format!("{}.{}", encode(header), encode(r#"{"sub":"u"}"#));
        let signature = BASE64URL_NOPAD.encode(pairs[at].sign(message.as_bytes()).as_ref());
        let token = format!("{message}.{signature}");
        tokens.verify(&token, NOW).map(drop)
    };
    let unnamed = r#"{"alg":"EdDSA"}"#;
    assert_eq!(verified(unnamed, TOKEN_TRIES - 1), Ok(()));
    assert_eq!(verified(unnamed, TOKEN_TRIES), Err(TokenError::Unnamed));

    // A name finds each of them.
    assert_eq!(verified(r#"{"alg":"EdDSA","kid":"5"}"#, 5), Ok(()));
}

#[test]
fn the_form_of_a_token_is_three_parts_of_base64() {
    assert!(has_form(&token(r#"{"sub":"u"}"#)));
    for wrong in [
        "", "x", "a.b", "a..c", "a.b.c.d", "a.b.c=", "a.b. c", ".a.b",
    ] {
        assert!(!has_form(wrong), "{wrong}");
    }
}

#[test]
fn an_end_may_be_required_and_is_nothing_else() {
    let app = AppConfig {
        tokens: vec![secret(None, SECRET)],
        require_exp: true,
        ..AppConfig::default()
    };
    let keys = Tokens::new(&app, None, &Limits::default()).unwrap();
    let verify = |claims: &str| keys.verify(&token(claims), NOW);
    assert_eq!(verify(r#"{"sub":"u"}"#).unwrap_err(), TokenError::NoExpiry);
    assert_eq!(
        verify(r#"{"sub":"u","iat":1}"#).unwrap_err(),
        TokenError::NoExpiry
    );
    assert!(verify(&format!(r#"{{"sub":"u","exp":{}}}"#, NOW + 9)).is_ok());
    assert!(
        tokens(vec![secret(None, SECRET)])
            .verify(&token(r#"{"sub":"u"}"#), NOW)
            .is_ok()
    );
}

#[test]
fn a_time_of_issue_that_cannot_be_read_counts_as_absent() {
    let keys = tokens(vec![secret(None, SECRET)]);
    for (iat, issued_at) in [
        ("1800000000", Some(1_800_000_000)),
        ("1800000000.9", Some(1_800_000_000)),
        ("99999999999", Some(99_999_999_999)),
        ("\"1800000000\"", None),
        ("null", None),
        ("-1", None),
    ] {
        let verified = keys.verify(&token(&format!(r#"{{"sub":"u","iat":{iat}}}"#)), NOW);
        assert_eq!(verified.unwrap().issued_at, issued_at, "{iat}");
    }
    assert_eq!(
        keys.verify(&token(r#"{"sub":"u"}"#), NOW)
            .unwrap()
            .issued_at,
        None
    );
}

#[test]
fn time_is_honoured_with_some_leeway() {
    let leeway = limits::TOKEN_LEEWAY.as_secs();
    let at = |claim: &str, time: f64| token(&format!(r#"{{"sub":"u","{claim}":{time}}}"#));
    let now = NOW as f64;
    let keys = tokens(vec![secret(None, SECRET)]);
    for good in [
        at("exp", now + 1.0),
        at("exp", now),
        at("exp", now + 0.5),
        at("nbf", now),
        at("nbf", now + leeway as f64),
    ] {
        assert!(keys.verify(&good, NOW).is_ok());
    }
    refused(&at("exp", now - leeway as f64), &TokenError::Expired);
    refused(&at("exp", 0.0), &TokenError::Expired);
    refused(&at("nbf", now + leeway as f64 + 1.0), &TokenError::NotYet);
    for claim in ["exp", "nbf"] {
        for bad in ["\"1800000000\"", "null", "-1", "[]", "{}", "true"] {
            let error = tokens(vec![secret(None, SECRET)])
                .verify(&token(&format!(r#"{{"sub":"u","{claim}":{bad}}}"#)), NOW)
                .unwrap_err();
            assert_eq!(
                error,
                TokenError::Claim(claim, "a number of seconds"),
                "{bad}"
            );
        }
    }
    assert_eq!(
        keys.verify(&token(r#"{"sub":"u","exp":1e999}"#), NOW)
            .unwrap_err(),
        TokenError::Claim("exp", "a number of seconds")
    );
}

#[test]
fn a_time_in_milliseconds_is_refused() {
    let keys = tokens(vec![secret(None, SECRET)]);
    let verify = |claim: &str, time: &str| {
        keys.verify(&token(&format!(r#"{{"sub":"u","{claim}":{time}}}"#)), NOW)
            .map(drop)
    };
    for claim in ["exp", "iat", "nbf"] {
        for time in [
            "1800000000000",
            "1800000000000.5",
            "1.8e12",
            "253402300800",
            "1e300",
        ] {
            let error = verify(claim, time).unwrap_err();
            assert_eq!(error, TokenError::Milliseconds(claim), "{time}");
            assert_eq!(
                error.to_string(),
                format!("the token's \"{claim}\" is in milliseconds; it must be in seconds")
            );
        }
    }
    // The end of the year 9999 is how some write "never".
    assert_eq!(verify("exp", "253402300799"), Ok(()));
    assert_eq!(verify("iat", "253402300799"), Ok(()));
}

#[test]
fn issuer_and_audience_are_checked_where_configured() {
    let app = AppConfig {
        tokens: vec![secret(None, SECRET)],
        issuer: Some("https://id.example".to_owned()),
        audience: Some("fanfare".to_owned()),
        ..AppConfig::default()
    };
    let keys = Tokens::new(&app, None, &Limits::default()).unwrap();
    let verify = |iss: &str, aud: &str| {
        keys.verify(
            &token(&format!(r#"{{"sub":"u","iss":{iss},"aud":{aud}}}"#)),
            NOW,
        )
        .map(|_| ())
    };
    let (iss, aud) = (r#""https://id.example""#, r#""fanfare""#);
    assert_eq!(verify(iss, aud), Ok(()));
    assert_eq!(verify(iss, r#"["other","fanfare"]"#), Ok(()));
    for bad in [
        r#""https://id.example/""#,
        "null",
        "1",
        r#"["https://id.example"]"#,
    ] {
        assert_eq!(verify(bad, aud), Err(TokenError::Issuer), "{bad}");
    }
    for bad in [
        r#""Fanfare""#,
        "[]",
        r#"["other"]"#,
        "null",
        r#"{"fanfare":1}"#,
        r#"["fanfare",1]"#,
    ] {
        assert_eq!(verify(iss, bad), Err(TokenError::Audience), "{bad}");
    }
    assert_eq!(
        keys.verify(&token(r#"{"sub":"u"}"#), NOW).unwrap_err(),
        TokenError::Issuer
    );
}

#[test]
fn sub_must_be_a_name() {
    let long = format!(r#"{{"sub":"{}"}}"#, "x".repeat(257));
    for payload in [
        "{}",
        r#"{"sub":1}"#,
        r#"{"sub":null}"#,
        r#"{"sub":""}"#,
        r#"{"sub":["u"]}"#,
        r#"{"sub":"\ud800"}"#,
        &long,
    ] {
        refused(
            &token(payload),
            &TokenError::Claim("sub", "a string of 1 to 256 bytes"),
        );
    }
}

#[test]
fn claims_that_come_twice_are_refused() {
    for payload in [
        r#"{"sub":"u","sub":"root"}"#,
        r#"{"sub":"u","role":"a","role":"b"}"#,
        r#"{"sub":"u","r\u006fle":"a","role":"b"}"#,
    ] {
        refused(&token(payload), &TokenError::Malformed);
    }
    refused(
        &write(
            r#"{"alg":"none","alg":"HS256"}"#,
            r#"{"sub":"u"}"#,
            &hs256(SECRET),
        ),
        &TokenError::Malformed,
    );
}

#[test]
fn what_is_no_token_is_refused() {
    let good = token(r#"{"sub":"u"}"#);
    for bad in [
        "..",
        "a.b.c",
        "🦀.🦀.🦀",
        &format!("{good}="),
        &format!(" {good}"),
    ] {
        refused(bad, &TokenError::Malformed);
    }
    refused("", &TokenError::Empty);
    for bad in [
        ".",
        "...",
        "a.b",
        "a.b.c.d",
        "an-api-key-of-this-server",
        "🦀🦀🦀",
        &format!("{good}."),
    ] {
        refused(bad, &TokenError::Parts);
    }
    for scheme in ["Bearer", "bearer"] {
        refused(&format!("{scheme} {good}"), &TokenError::Scheme);
    }
    for unset in ["undefined", "null", "[object Promise]"] {
        refused(unset, &TokenError::Unset(unset));
    }
    refused(&format!("\"{good}\""), &TokenError::Quoted);
    for end in 0..good.len() {
        assert!(
            tokens(vec![secret(None, SECRET)])
                .verify(&good[..end], NOW)
                .is_err(),
            "{end}"
        );
    }
    for header in [
        "[]",
        r#"["HS256"]"#,
        "null",
        "\"HS256\"",
        "{}",
        r#"{"alg":1}"#,
    ] {
        refused(
            &write(header, r#"{"sub":"u"}"#, &hs256(SECRET)),
            &TokenError::Malformed,
        );
    }
    for payload in [
        "",
        "null",
        "[]",
        "\"u\"",
        r#"{"sub":"u""#,
        r#"{"sub":"u"} x"#,
    ] {
        refused(&token(payload), &TokenError::Malformed);
    }
    let header = r#"{"alg":"HS256","crit":["exp"]}"#;
    refused(
        &write(header, r#"{"sub":"u"}"#, &hs256(SECRET)),
        &TokenError::Critical,
    );
}

#[test]
fn huge_tokens_are_refused_before_work_is_done() {
    let claims = |len: usize| {
        let empty = r#"{"sub":"u","x":""}"#.len();
        token(&format!(
            r#"{{"sub":"u","x":"{}"}}"#,
            "x".repeat(len - empty)
        ))
    };
    let limit = Limits::default().claims_bytes;
    assert!(
        tokens(vec![secret(None, SECRET)])
            .verify(&claims(limit), NOW)
            .is_ok()
    );
    refused(&claims(limit + 1), &TokenError::TooBig(limit));
    refused(&claims(1 << 20), &TokenError::TooBig(limit));
    refused(&"x".repeat(1 << 20), &TokenError::TooBig(limit));
}

#[test]
fn a_bad_can_is_refused() {
    let error = tokens(vec![secret(None, SECRET)])
        .verify(&token(r#"{"sub":"u","can":{"jion":[]}}"#), NOW)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with(r#"the token: unknown field "can.jion"; did you mean "can.join"?"#),
        "{error}"
    );
    assert!(
        tokens(vec![secret(None, SECRET)])
            .verify(&token(r#"{"sub":"u","can":null}"#), NOW)
            .is_err()
    );
}

#[test]
fn keys_that_are_none_are_refused() {
    let new = |key| {
        Tokens::new(
            &AppConfig {
                tokens: vec![key],
                ..AppConfig::default()
            },
            None,
            &Limits::default(),
        )
    };
    let error = new(secret(None, "31-bytes-are-one-too-few-at-all")).unwrap_err();
    assert_eq!(error, TokenKeyError::Short(31));
    let ((_, rs_pem), (_, es_pem)) = (rs256(), es256());
    for (alg, pem) in [
        (TokenAlgorithm::RS256, &*es_pem),
        (TokenAlgorithm::ES256, &rs_pem),
        (TokenAlgorithm::EdDSA, &es_pem),
        (TokenAlgorithm::EdDSA, "not a key"),
        (TokenAlgorithm::RS256, ""),
    ] {
        let error = new(public(Some("k"), alg, pem)).unwrap_err().to_string();
        assert!(
            error.starts_with("the public key \"k\" is not a PEM of"),
            "{error}"
        );
    }
    assert!(tokens(vec![]).is_empty());
    assert!(matches!(
        tokens(vec![]).verify(&token(r#"{"sub":"u"}"#), NOW),
        Err(TokenError::Algorithm { .. })
    ));
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

#[test]
fn what_is_signed_is_verified() {
    let app = AppConfig {
        tokens: vec![secret(Some("k1"), SECRET)],
        issuer: Some("fan\"fare".to_owned()),
        audience: Some("clients".to_owned()),
        ..AppConfig::default()
    };
    let keys = Tokens::new(&app, None, &Limits::default()).unwrap();
    let (claims, can) = (
        raw(r#"{ "tenant": 1.50, "roles":["a"] }"#),
        raw(r#"{"send":["*"]}"#),
    );
    let signed = keys
        .signer()
        .unwrap()
        .sign("u\"1", Some(&claims), Some(&can), None, NOW)
        .unwrap();
    assert_eq!(signed.expires_at, NOW + 3600);
    let verified = keys.verify(&signed.token, NOW).unwrap();
    assert_eq!(
        (&*verified.user, verified.expires_at),
        ("u\"1", Some(NOW + 3600))
    );
    assert!(verified.rights.unwrap().may_send("x"));
    assert!(
        str::from_utf8(&verified.claims)
            .unwrap()
            .ends_with(r#","tenant": 1.50, "roles":["a"]}"#)
    );
    let value: serde_json::Value = serde_json::from_slice(&verified.claims).unwrap();
    assert_eq!(value["iat"], NOW);
    assert!(!format!("{signed:?}").contains(&signed.token));
}

/// Keys and tokens that OpenSSL made; `testdata/make.sh` says how.
#[test]
fn another_implementation_agrees() {
    let made = |alg, key, token| (public(None, alg, key), token);
    let all = [
        (secret(None, SECRET), include_str!("../testdata/hs256.jwt")),
        made(
            TokenAlgorithm::RS256,
            testkeys::RSA_PUBLIC,
            include_str!("../testdata/rs256.jwt"),
        ),
        made(
            TokenAlgorithm::ES256,
            include_str!("../testdata/ec.pub.pem"),
            include_str!("../testdata/es256.jwt"),
        ),
        made(
            TokenAlgorithm::EdDSA,
            include_str!("../testdata/ed.pub.pem"),
            include_str!("../testdata/eddsa.jwt"),
        ),
    ];
    for (key, token) in all {
        let alg = key.alg;
        let keys = tokens(vec![key]);
        assert_eq!(&*keys.verify(token, NOW).unwrap().user, "ann", "{alg:?}");

        // One bit of the signature.
        let (message, signature) = token.rsplit_once('.').unwrap();
        let mut signature = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
        signature[20] ^= 1;
        let changed = format!("{message}.{}", BASE64URL_NOPAD.encode(&signature));
        assert_eq!(
            keys.verify(&changed, NOW).unwrap_err(),
            TokenError::Signature,
            "{alg:?}"
        );
    }
}

#[test]
fn what_would_be_refused_is_not_signed() {
    let keys = tokens(vec![secret(None, SECRET)]);
    let sign = |user: &str, claims: &str, can: &str| {
        keys.signer()
            .unwrap()
            .sign(user, Some(&raw(claims)), Some(&raw(can)), None, NOW)
            .unwrap_err()
    };
    assert_eq!(sign("", "{}", "{}"), SignError::User);
    assert_eq!(sign(&"x".repeat(257), "{}", "{}"), SignError::User);
    for reserved in ["sub", "exp", "iat", "nbf", "iss", "aud", "can"] {
        assert_eq!(
            sign("u", &json!({reserved: 1}).to_string(), "{}"),
            SignError::Reserved(reserved)
        );
    }
    let can = sign("u", r#"{"can":{"join":["*"]}}"#, "{}").to_string();
    assert!(can.contains(r#""can": {…}}"#), "{can}");
    assert_eq!(
        sign("u", r#"{"s\u0075b":"root"}"#, "{}"),
        SignError::Reserved("sub")
    );
    for claims in ["[]", "null", "1", r#"{"a":1,"a":2}"#] {
        assert_eq!(sign("u", claims, "{}"), SignError::Claims, "{claims}");
    }
    assert!(matches!(
        sign("u", "{}", r#"{"join":1}"#),
        SignError::Rights(_)
    ));
    assert!(matches!(
        sign("u", &json!({"x": "x".repeat(8192)}).to_string(), "{}"),
        SignError::TooBig(_, 8192)
    ));
    let ttl = |seconds| {
        keys.signer()
            .unwrap()
            .sign("u", None, None, Some(Duration::from_secs(seconds)), NOW)
    };
    assert_eq!(ttl(0), Err(SignError::Ttl));
    assert_eq!(ttl(u64::MAX).unwrap().expires_at, NOW + 24 * 3600);
    assert_eq!(ttl(60).unwrap().expires_at, NOW + 60);
}

#[test]
fn only_a_shared_secret_signs() {
    let (_, pem) = es256();
    let keys = tokens(vec![public(None, TokenAlgorithm::ES256, &pem)]);
    assert!(keys.signer().is_none());
}

#[test]
fn an_ephemeral_secret_is_another_each_time() {
    let make = || {
        Tokens::ephemeral(
            &AppConfig::default(),
            random_secret().unwrap(),
            &Limits::default(),
        )
        .unwrap()
    };
    let (one, two) = (make(), make());
    let signed = one
        .signer()
        .unwrap()
        .sign("u", None, None, None, NOW)
        .unwrap();
    assert!(one.verify(&signed.token, NOW).is_ok());
    assert_eq!(
        two.verify(&signed.token, NOW).unwrap_err(),
        TokenError::Signature
    );
}

proptest! {
    #[test]
    fn any_text_is_refused_without_a_panic(text in ".{0,60}", payload in ".{0,60}") {
        let keys = tokens(vec![secret(None, SECRET)]);
        prop_assert!(keys.verify(&text, NOW).is_err());
        prop_assert!(keys.verify(&token(&payload), NOW).is_err());
    }
}
