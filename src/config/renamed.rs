//! Settings that are still read under the names of the version before, with a warning that says the new one.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::Layer;

/// The table of a setting, its old name and its new one.
#[derive(Debug)]
pub(super) struct Renamed {
    pub(super) table: Table,
    pub(super) old: &'static str,
    pub(super) new: &'static str,
}

/// The table of a renamed setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Limits,
    /// It is in the table of every app.
    App,
}

/// All of them. A row is taken out with the version after the one that brought it.
pub(super) const RENAMED: [Renamed; 2] = [
    Renamed {
        table: Table::App,
        old: "max_kept_bytes",
        new: "max_stored_bytes",
    },
    Renamed {
        table: Table::Limits,
        old: "ask_timeout",
        new: "node_call_timeout",
    },
];

/// The new name of a limit, if `name` is an old one.
pub(super) fn limit(name: &str) -> Option<&'static str> {
    let of = |row: &&Renamed| row.table == Table::Limits && row.old == name;
    RENAMED.iter().find(of).map(|row| row.new)
}

/// Gives the settings of a file their new names. Returns a warning for each; `place` says where an offset is.
pub(super) fn in_file(file: &mut DeTable<'_>, place: impl Fn(usize) -> String) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, value) in file.iter_mut() {
        let DeValue::Table(inner) = value.get_mut() else {
            continue;
        };

        match &**name.get_ref() {
            "limits" => rename(inner, Table::Limits, &place, &mut warnings),
            "apps" => {
                for (_, app) in inner.iter_mut() {
                    if let DeValue::Table(app) = app.get_mut() {
                        rename(app, Table::App, &place, &mut warnings);
                    }
                }
            }
            _ => {}
        }
    }

    warnings
}

fn rename(
    settings: &mut DeTable<'_>,
    table: Table,
    place: &impl Fn(usize) -> String,
    warnings: &mut Vec<String>,
) {
    for row in RENAMED.iter().filter(|row| row.table == table) {
        let found = settings.keys().find(|key| &**key.get_ref() == row.old);
        let Some(key) = found.cloned() else {
            continue;
        };

        // With both, the old one stays, and is refused as an unknown setting.
        if settings.keys().any(|key| &**key.get_ref() == row.new) {
            continue;
        }

        if let Some(value) = settings.remove(&key) {
            warnings.push(warning(&place(key.span().start), row));
            settings.insert(Spanned::new(key.span(), row.new.into()), value);
        }
    }
}

/// A warning for each limit that a flag or a variable sets under its old name.
pub(super) fn of_flags(layers: &[Layer<'_>]) -> Vec<String> {
    let limits = layers
        .iter()
        .flat_map(|(args, prefix)| args.limits.iter().map(move |limit| (limit, *prefix)));
    let renamed = limits.filter_map(|(limit, prefix)| {
        let is_old = |row: &&Renamed| row.table == Table::Limits && row.old == limit.name;
        let row = RENAMED.iter().find(is_old)?;
        let place = match prefix {
            "--" => "--limit".to_owned(),
            _ => format!("{prefix}LIMIT_{}", limit.name.to_uppercase()),
        };
        Some(warning(&place, row))
    });

    renamed.collect()
}

fn warning(place: &str, row: &Renamed) -> String {
    format!(
        "{place}: \"{}\" is now \"{}\"; the next version refuses the old name",
        row.old, row.new
    )
}
