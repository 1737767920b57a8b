//! Keys as OpenSSL writes them, and what is no key; `testdata/make.sh` says how they were made.

use proptest::prelude::*;

use super::*;

const RSA: &str = include_str!("../testdata/rsa.pub.pem");
const RSA_PKCS1: &str = include_str!("../testdata/rsa.pkcs1.pem");
const RSA_CERTIFICATE: &str = include_str!("../testdata/rsa.crt.pem");
const EC: &str = include_str!("../testdata/ec.pub.pem");
const ED: &str = include_str!("../testdata/ed.pub.pem");

const ALGORITHMS: [TokenAlgorithm; 4] = [
    TokenAlgorithm::HS256,
    TokenAlgorithm::RS256,
    TokenAlgorithm::ES256,
    TokenAlgorithm::EdDSA,
];

/// The algorithms that take `pem`.
fn taken_by(pem: &str) -> Vec<TokenAlgorithm> {
    ALGORITHMS
        .into_iter()
        .filter(|alg| PublicKey::from_pem(*alg, pem).is_some())
        .collect()
}

#[test]
fn a_key_is_for_its_algorithm_alone() {
    for (pem, alg) in [
        (RSA, TokenAlgorithm::RS256),
        (RSA_PKCS1, TokenAlgorithm::RS256),
        (RSA_CERTIFICATE, TokenAlgorithm::RS256),
        (EC, TokenAlgorithm::ES256),
        (ED, TokenAlgorithm::EdDSA),
    ] {
        assert_eq!(taken_by(pem), [alg], "{pem}");

        // As it comes from a variable, or from an editor on another system.
        let indented = format!("\n  {}", pem.replace('\n', "\r\n  "));
        assert_eq!(taken_by(&indented), [alg], "{pem}");
    }
}

#[test]
fn every_form_of_a_key_is_the_same_key() {
    let token = include_str!("../testdata/rs256.jwt");
    let (message, signature) = token.rsplit_once('.').unwrap();
    let signature = data_encoding::BASE64URL_NOPAD
        .decode(signature.as_bytes())
        .unwrap();
    for pem in [RSA, RSA_PKCS1, RSA_CERTIFICATE] {
        let key = PublicKey::from_pem(TokenAlgorithm::RS256, pem).unwrap();
        assert!(key.verifies(message.as_bytes(), &signature), "{pem}");
        assert!(!key.verifies(&message.as_bytes()[1..], &signature), "{pem}");
    }
}

#[test]
fn what_is_no_public_key_is_refused() {
    let private = include_str!("../testdata/rsa.key.pem");
    let relabelled = private.replace("PRIVATE", "PUBLIC");
    let unended = &RSA[..RSA.len() / 2];
    for pem in ["", "not PEM", private, &relabelled, unended] {
        assert!(taken_by(pem).is_empty(), "{pem}");
    }
}

#[test]
fn numbers_that_are_no_rsa_key_are_refused() {
    let (n, e) = ([0xff; 256], [1, 0, 1]);
    assert!(PublicKey::rsa(&n, &e).is_some());
    assert!(PublicKey::rsa(&[&[0, 0], &n[..]].concat(), &[0, 1, 0, 1]).is_some());

    let even = [&[0xff; 255][..], &[0xfe]].concat();
    let short = [&[0x7f][..], &[0xff; 255]].concat();
    let long = [0xff; 1025];
    for n in [&[][..], &[0; 256], &even, &short, &long] {
        assert!(PublicKey::rsa(n, &e).is_none(), "{n:?}");
    }
    for e in [&[][..], &[0], &[1], &[2], &[1; 5]] {
        assert!(PublicKey::rsa(&n, e).is_none(), "{e:?}");
    }
}

#[test]
fn a_point_that_is_not_on_the_curve_is_refused() {
    assert!(PublicKey::p256(&[1; 32], &[1; 32]).is_none());
    assert!(PublicKey::p256(&[1; 31], &[1; 33]).is_none());
}

proptest! {
    #[test]
    fn changed_and_cut_keys_never_panic(at in 0usize..300, byte: u8, length in 0usize..300) {
        for pem in [RSA, RSA_PKCS1, EC, ED] {
            let (label, mut der) = pem_block(pem).unwrap();
            let last = der.len() - 1;
            der[at.min(last)] = byte;
            der.truncate(length);
            let pem = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----", BASE64.encode(&der));
            let taken = taken_by(&pem);
            prop_assert!(taken.len() <= 1, "{taken:?}");
        }
    }
}
