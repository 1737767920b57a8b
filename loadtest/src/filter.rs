//! Filters that a known part of a test's users matches, each answered from an index or only by a scan.

use clap::ValueEnum;

use crate::token;

/// What a filter asks of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// An index over `auth.tenant` gives whom it matches
    Index,
    /// No index can narrow it: each connection is looked at
    Scan,
}

/// Whom a filter matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Share {
    /// One tenant of a hundred
    #[value(name = "1")]
    One,
    /// Half of the tenants
    #[value(name = "50")]
    Half,
    /// Everyone
    #[value(name = "100")]
    All,
}

/// A filter over the claims that [`token::Signer`] signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) by: By,
    pub(crate) share: Share,
}

/// The attribute that [`By::Index`] needs an index over.
pub(crate) const INDEXED: &str = "auth.tenant";

/// The tenant of [`Share::One`].
const TENANT: usize = 7;

impl Filter {
    /// True for every user of a test, and only found out by looking at each.
    pub(crate) const SCAN_ALL: Self = Self {
        by: By::Scan,
        share: Share::All,
    };

    /// The filter, in CEL.
    pub(crate) fn text(self) -> String {
        let one = token::tenant(TENANT);
        let tenants = match (self.by, self.share) {
            (By::Index, Share::One) => return format!(r#"{INDEXED} == "{one}""#),
            (By::Index, Share::Half | Share::All) => {
                let names: Vec<String> = (0..self.tenants())
                    .map(|n| format!(r#""{}""#, token::tenant(n)))
                    .collect();
                return format!("{INDEXED} in [{}]", names.join(", "));
            }
            (By::Scan, Share::One) => format!(r#"{INDEXED}.startsWith("{one}")"#),
            (By::Scan, Share::Half) => {
                format!(r#"{INDEXED} < "{}""#, token::tenant(self.tenants()))
            }
            (By::Scan, Share::All) => format!(r#"{INDEXED}.startsWith("tenant-")"#),
        };
        format!("{tenants} && size(auth.email) > 0")
    }

    /// The filter for people, its list cut short.
    pub(crate) fn summary(self) -> String {
        let text = self.text();
        match (text.split_once(", "), text.rsplit_once(", ")) {
            (Some((first, _)), Some((_, last))) => format!("{first}, … {last}"),
            _ => text,
        }
    }

    /// Whether it matches the user of this number.
    pub(crate) fn matches(self, user: usize) -> bool {
        let tenant = user % token::TENANTS;
        if self.share == Share::One {
            tenant == TENANT
        } else {
            tenant < self.tenants()
        }
    }

    /// How many of the tenants it matches.
    fn tenants(self) -> usize {
        match self.share {
            Share::One => 1,
            Share::Half => token::TENANTS / 2,
            Share::All => token::TENANTS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_matches_its_share_of_the_users() {
        for (share, of) in [(Share::One, 3), (Share::Half, 150), (Share::All, 300)] {
            let filter = Filter {
                by: By::Index,
                share,
            };
            assert_eq!((0..300).filter(|&user| filter.matches(user)).count(), of);
        }
    }

    #[test]
    fn filters_are_written_as_the_server_reads_them() {
        let text = |by, share| Filter { by, share }.text();
        assert_eq!(text(By::Index, Share::One), r#"auth.tenant == "tenant-07""#);
        assert_eq!(
            text(By::Scan, Share::Half),
            r#"auth.tenant < "tenant-50" && size(auth.email) > 0"#
        );
        let half = text(By::Index, Share::Half);
        assert!(half.starts_with(r#"auth.tenant in ["tenant-00", "tenant-01", "#));
        let summary = Filter {
            by: By::Index,
            share: Share::Half,
        }
        .summary();
        assert_eq!(summary, r#"auth.tenant in ["tenant-00", … "tenant-49"]"#);
    }
}
