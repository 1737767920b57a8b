//! What an API key may do.

use std::fmt;

use serde::Deserialize;

/// One kind of call that an API key may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
// Each is a bit, since a set of them is one byte.
#[repr(u8)]
pub enum Scope {
    /// Emit, publish, send, broadcast, dispatch, batch.
    Publish = 1,
    /// Look at channels, members, history, connections and users; metrics; explain.
    Inspect = 2,
    /// Disconnect, and put connections into channels or out of them.
    Control = 4,
    /// Sign client tokens.
    Tokens = 8,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 4] = [Self::Publish, Self::Inspect, Self::Control, Self::Tokens];

    /// The name in the configuration and in errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Inspect => "inspect",
            Self::Control => "control",
            Self::Tokens => "tokens",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of [`Scope`]s, in one byte.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Vec<Scope>")]
pub struct Scopes(u8);

impl Scopes {
    /// Every scope.
    pub const ALL: Self = Self(1 | 2 | 4 | 8);

    /// Whether `scope` is in the set.
    pub fn contains(self, scope: Scope) -> bool {
        self.0 & scope as u8 != 0
    }

    /// Whether the set allows nothing.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes in the set.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL
            .into_iter()
            .filter(move |scope| self.contains(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | scope as u8))
    }
}

impl From<Vec<Scope>> for Scopes {
    fn from(scopes: Vec<Scope>) -> Self {
        scopes.into_iter().collect()
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let set: Scopes = [Scope::Inspect, Scope::Tokens].into_iter().collect();
        assert_eq!(
            set.iter().collect::<Vec<_>>(),
            [Scope::Inspect, Scope::Tokens]
        );
        assert!(!set.contains(Scope::Publish) && set.contains(Scope::Tokens));
        assert_eq!(Scope::ALL.into_iter().collect::<Scopes>(), Scopes::ALL);
        assert!(Scopes::default().is_empty());
    }
}
