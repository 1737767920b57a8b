//! What is remembered until a time: revoked tokens, and the answers of idempotency keys.

use bytes::{Buf as _, BufMut as _, Bytes};
use smol_str::SmolStr;

use super::{database::Fault, store::Store};
use crate::{
    auth::{Revocation, Revoked},
    id::AppId,
    limits::DATA_TOPIC_BYTES,
};

/// What a fact is about. Its number is its kind on disk, beside those of topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Answer = 2,
    Revocation = 3,
}

/// The answer that was given to the first request with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredAnswer {
    /// A digest of the request's body.
    pub(crate) body: Box<str>,
    pub(crate) answer: Bytes,
}

/// The key of a fact: its kind, its app, its name.
fn key(kind: Kind, app: u32, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + name.len());
    key.put_u8(kind as u8);
    key.put_u32(app);
    key.put_slice(name);
    key
}

impl Store {
    /// Remembers `value` until `until_ms`, in place of what was remembered under this name.
    fn remember(
        &mut self,
        kind: Kind,
        (app, name): (u32, &[u8]),
        until_ms: u64,
        value: &[u8],
    ) -> Result<(), Fault> {
        let key = key(kind, app, name);
        let facts = self.tables().facts.clone();
        // Replacing one is no growth, so the old one is taken out of the sums.
        if let Some(was) = facts.get(&key)? {
            self.add(app, -(weight(&key, &was) as i64), 0);
        }
        let mut record = Vec::with_capacity(8 + value.len());
        record.put_u64(until_ms);
        record.put_slice(value);
        self.add(app, weight(&key, &record) as i64, 0);
        self.tables().insert(&facts, &key, &record);
        self.note_fact_due(kind as u8, (app, name), until_ms);
        Ok(())
    }

    /// Removes a fact that is due, unless it was remembered for longer since. `kind`, `app` and `name` are what the table of
    /// what is due says.
    pub(super) fn forget_fact(&mut self, kind: u8, app: u32, name: &[u8]) -> Result<(), Fault> {
        let kind = match kind {
            2 => Kind::Answer,
            3 => Kind::Revocation,
            _ => return Ok(()),
        };

        let key = key(kind, app, name);
        let facts = self.tables().facts.clone();
        let Some(record) = facts.get(&key)? else {
            return Ok(());
        };

        // A revocation that was prolonged is noted as due a second time.
        if (&record[..]).try_get_u64().unwrap_or_default() <= self.now_ms() {
            self.add(app, -(weight(&key, &record) as i64), 0);
            self.tables().remove(&facts, &key);
        }

        Ok(())
    }

    /// Stores the answer to the first request with the key called `name`.
    pub(super) fn keep_answer(
        &mut self,
        app: AppId,
        name: &str,
        stored: &StoredAnswer,
        window_ms: u64,
    ) -> Result<(), Fault> {
        let mut value = Vec::with_capacity(2 + stored.body.len() + stored.answer.len());
        // It is a digest, so its length fits 16 bits.
        value.put_u16(stored.body.len() as u16);
        value.put_slice(stored.body.as_bytes());
        value.put_slice(&stored.answer);
        let (app, until_ms) = (self.number_of(app), self.now_ms().saturating_add(window_ms));
        self.remember(Kind::Answer, (app, name.as_bytes()), until_ms, &value)
    }

    /// The answer that was stored for the key called `name`, if it is not past its time.
    pub(super) fn answer(&mut self, app: AppId, name: &str) -> Result<Option<StoredAnswer>, Fault> {
        let key = key(Kind::Answer, self.number_of(app), name.as_bytes());
        let Some(record) = self.tables().facts.get(key)? else {
            return Ok(None);
        };

        let mut rest = &record[..];
        if rest.try_get_u64().unwrap_or_default() <= self.now_ms() {
            return Ok(None);
        }

        let length = usize::from(rest.try_get_u16().unwrap_or_default());
        let Some((body, answer)) = rest.split_at_checked(length) else {
            return Err(Fault::Damage("a stored answer cannot be read".into()));
        };

        Ok(Some(StoredAnswer {
            body: String::from_utf8_lossy(body).into(),
            answer: Bytes::copy_from_slice(answer),
        }))
    }

    /// Remembers revocations. Those of a user that was revoked before replace what was known: callers pass both together.
    pub(super) fn revoke(&mut self, app: AppId, revoked: &[Revoked]) -> Result<(), Fault> {
        let app = self.number_of(app);
        for (user, revocation) in revoked {
            let until_ms = revocation.until.saturating_mul(1000);
            let before = revocation.before.to_be_bytes();
            self.remember(Kind::Revocation, (app, user.as_bytes()), until_ms, &before)?;
        }
        Ok(())
    }

    /// All revocations of an app.
    pub(super) fn revoked(&mut self, app: AppId) -> Result<Vec<Revoked>, Fault> {
        let prefix = key(Kind::Revocation, self.number_of(app), b"");
        let mut revoked = Vec::new();
        for guard in self.tables().facts.prefix(&prefix) {
            let (key, record) = guard.into_inner()?;
            let mut rest = &record[..];
            let until = rest.try_get_u64().unwrap_or_default() / 1000;
            let before = rest.try_get_u64().unwrap_or_default();
            let user = SmolStr::from(String::from_utf8_lossy(&key[prefix.len()..]));
            revoked.push((user, Revocation { before, until }));
        }
        Ok(revoked)
    }
}

/// What a fact counts for against the bound of the directory.
fn weight(key: &[u8], record: &[u8]) -> usize {
    key.len() + record.len() + DATA_TOPIC_BYTES
}
