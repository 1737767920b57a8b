//! Client tokens, signed here with the server's secret (HS256), so that the test costs the server no signing.

use data_encoding::BASE64URL_NOPAD;
use ring::hmac;

/// Signs the tokens of a test's users.
#[derive(Debug)]
pub(crate) struct Signer {
    key: hmac::Key,
    expires_at: u64,
}

/// How many tenants the users are divided among, in turn.
pub(crate) const TENANTS: usize = 100;

/// How long the tokens live; longer than any test, shorter than a server's usual cap.
const SECONDS: u64 = 6 * 3600;

impl Signer {
    /// A signer with the server's secret.
    pub(crate) fn new(secret: &str) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
            expires_at: now + SECONDS,
        }
    }

    /// A token for the test's user number `user`, with three claims: tenant, plan, email.
    pub(crate) fn sign(&self, user: usize) -> String {
        let payload = format!(
            r#"{{"sub":"{name}","exp":{exp},"tenant":"{tenant}","plan":"{plan}","email":"{name}@example.com"}}"#,
            name = name(user),
            exp = self.expires_at,
            tenant = tenant(user % TENANTS),
            plan = if user.is_multiple_of(10) {
                "enterprise"
            } else {
                "free"
            },
        );
        self.sign_claims(&payload)
    }

    /// A token with exactly these claims, a JSON object.
    pub(crate) fn sign_claims(&self, payload: &str) -> String {
        let head = BASE64URL_NOPAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
        let message = format!("{head}.{}", BASE64URL_NOPAD.encode(payload.as_bytes()));
        let signature = BASE64URL_NOPAD.encode(hmac::sign(&self.key, message.as_bytes()).as_ref());
        format!("{message}.{signature}")
    }
}

/// The name of the tenant number `tenant`, in two digits, so that names have the order of numbers.
pub(crate) fn tenant(tenant: usize) -> String {
    format!("tenant-{tenant:02}")
}

/// The name of the test's user number `user`.
pub(crate) fn name(user: usize) -> String {
    format!("u{user}")
}

/// The name of the user that a token is for, unverified; for the floor server, which trusts the harness.
pub(crate) fn subject(token: &str) -> Option<String> {
    let payload = BASE64URL_NOPAD
        .decode(token.split('.').nth(1)?.as_bytes())
        .ok()?;
    let payload: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    Some(payload.get("sub")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_user() {
        let token = Signer::new("0123456789abcdef0123456789abcdef").sign(12);
        assert_eq!(subject(&token).as_deref(), Some("u12"));
        assert_eq!(subject("a.b.c"), None);
    }
}
