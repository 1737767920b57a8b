//! Public keys of the algorithms that tokens may be signed with, read from PEM or from the numbers of a JSON Web Key.

use data_encoding::BASE64;
use ring::{agreement, rand::SystemRandom, signature};
use tokio_rustls::rustls::{
    pki_types::{CertificateDer, alg_id},
    server::ParsedCertificate,
};

use crate::config::TokenAlgorithm;

/// Bits of an RSA modulus, as RS256 takes them.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Bytes of an RSA exponent: the verification takes no more than 33 bits. Everyone uses 65,537.
const EXPONENT_BYTES: usize = 4;

/// The first byte of an uncompressed point (SEC 1, section 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// A public key that was checked to be one for its algorithm.
#[derive(Clone, Debug)]
pub(super) enum PublicKey {
    /// Modulus and exponent, big-endian, without leading zeros.
    Rsa(signature::RsaPublicKeyComponents<Vec<u8>>),
    /// An uncompressed point on the curve.
    P256(signature::UnparsedPublicKey<[u8; 65]>),
    Ed25519(signature::UnparsedPublicKey<[u8; 32]>),
}

impl PublicKey {
    /// Reads the key of `alg` from a PEM block `PUBLIC KEY`, `RSA PUBLIC KEY` or `CERTIFICATE`.
    pub(super) fn from_pem(alg: TokenAlgorithm, pem: &str) -> Option<Self> {
        let (label, der) = pem_block(pem)?;
        match label {
            "PUBLIC KEY" => Self::from_spki(alg, &der),
            "RSA PUBLIC KEY" if alg == TokenAlgorithm::RS256 => Self::from_pkcs1(&der),
            "CERTIFICATE" => {
                let certificate = CertificateDer::from(der);
                let parsed = ParsedCertificate::try_from(&certificate).ok()?;
                Self::from_spki(alg, parsed.subject_public_key_info().as_ref())
            }
            _ => None,
        }
    }

    /// Makes a key from the modulus and the exponent of an RSA key.
    pub(super) fn rsa(n: &[u8], e: &[u8]) -> Option<Self> {
        let (n, e) = (without_zeros(n), without_zeros(e));
        let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;

        // An even modulus or exponent, or an exponent of 1, does not make an RSA key.
        let odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
        if !RSA_BITS.contains(&bits) || e.len() > EXPONENT_BYTES || !odd(n) || !odd(e) || e == [1] {
            return None;
        }
        Some(Self::Rsa(signature::RsaPublicKeyComponents {
            n: n.to_vec(),
            e: e.to_vec(),
        }))
    }

    /// Makes a key from the coordinates of a point on P-256.
    pub(super) fn p256(x: &[u8], y: &[u8]) -> Option<Self> {
        if x.len() != 32 || y.len() != 32 {
            return None;
        }
        Self::p256_point(&[&[UNCOMPRESSED], x, y].concat())
    }

    fn p256_point(point: &[u8]) -> Option<Self> {
        let point: [u8; 65] = point.try_into().ok()?;

        // Only a signature could show otherwise whether the point is on the curve, and nobody has one now.
        let random = SystemRandom::new();
        let own = agreement::EphemeralPrivateKey::generate(&agreement::ECDH_P256, &random).ok()?;
        let peer = agreement::UnparsedPublicKey::new(&agreement::ECDH_P256, point);
        agreement::agree_ephemeral(own, &peer, |_| ()).ok()?;

        let key = signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
        Some(Self::P256(key))
    }

    /// Makes a key from the 32 bytes of an Ed25519 key.
    pub(super) fn ed25519(x: &[u8]) -> Option<Self> {
        let x: [u8; 32] = x.try_into().ok()?;
        Some(Self::Ed25519(signature::UnparsedPublicKey::new(
            &signature::ED25519,
            x,
        )))
    }

    /// Makes a key from a `SubjectPublicKeyInfo` (RFC 5280, section 4.1): the algorithm, and the key as that algorithm
    /// writes it.
    fn from_spki(alg: TokenAlgorithm, der: &[u8]) -> Option<Self> {
        let (info, []) = element(der, SEQUENCE)? else {
            return None;
        };

        let (algorithm, rest) = element(info, SEQUENCE)?;
        let (bits, []) = element(rest, BIT_STRING)? else {
            return None;
        };

        // The first byte counts the unused bits at the end; a key has none.
        let key = bits.strip_prefix(&[0])?;

        match alg {
            TokenAlgorithm::RS256 if algorithm == alg_id::RSA_ENCRYPTION.as_ref() => {
                Self::from_pkcs1(key)
            }
            TokenAlgorithm::ES256 if algorithm == alg_id::ECDSA_P256.as_ref() => {
                Self::p256_point(key)
            }
            TokenAlgorithm::EdDSA if algorithm == alg_id::ED25519.as_ref() => Self::ed25519(key),
            _ => None,
        }
    }

    /// Makes a key from an `RSAPublicKey` (RFC 8017, appendix A.1.1): modulus and exponent.
    fn from_pkcs1(der: &[u8]) -> Option<Self> {
        let (numbers, []) = element(der, SEQUENCE)? else {
            return None;
        };
        let (n, rest) = element(numbers, INTEGER)?;
        let (e, []) = element(rest, INTEGER)? else {
            return None;
        };
        Self::rsa(n, e)
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa(key) => {
                let parameters = &signature::RSA_PKCS1_2048_8192_SHA256;
                key.verify(parameters, message, signature).is_ok()
            }
            Self::P256(key) => key.verify(message, signature).is_ok(),
            Self::Ed25519(key) => key.verify(message, signature).is_ok(),
        }
    }
}

/// Some write a number with zeros in front of it; DER does where it would look negative.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// The label and the content of the first block (RFC 7468); text around it is allowed.
fn pem_block(text: &str) -> Option<(&str, Vec<u8>)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (content, _) = rest.split_once(&format!("-----END {label}-----"))?;

    let base64: Vec<u8> = content
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    Some((label, BASE64.decode(&base64).ok()?))
}

// These are tags of DER (X.690, section 8).
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;

/// The content of the element of `tag` that `der` begins with, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = der.split_first_chunk()?;
    if found != tag {
        return None;
    }

    // A length with more bytes than it needs is not DER (X.690, section 10.1). It is taken all the
    // same: the key is checked by its content.
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => {
            let (&[length], rest) = rest.split_first_chunk()?;
            (usize::from(length), rest)
        }
        0x82 => {
            let (&length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(length)), rest)
        }
        // No key that is taken has 64 KiB.
        _ => return None,
    };

    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests;
