//! Key pairs for the tests of this module.

use data_encoding::BASE64;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair},
};

/// The public key of [`rsa`].
pub(super) const RSA_PUBLIC: &str = include_str!("testdata/rsa.pub.pem");

/// Always the same: making one takes seconds.
pub(super) fn rsa() -> RsaKeyPair {
    let pem = include_str!("testdata/rsa.key.pem");
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    RsaKeyPair::from_pkcs8(&BASE64.decode(base64.as_bytes()).unwrap()).unwrap()
}

pub(super) fn p256() -> EcdsaKeyPair {
    let (alg, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
    let made = EcdsaKeyPair::generate_pkcs8(alg, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(alg, made.as_ref(), &random).unwrap()
}

pub(super) fn ed25519() -> Ed25519KeyPair {
    let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap()
}
