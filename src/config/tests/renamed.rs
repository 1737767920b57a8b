//! Settings under their old names.

use super::{
    super::renamed::{RENAMED, Table},
    *,
};

fn read(folder: &Folder, text: &str) -> crate::config::Loaded {
    let path = folder.write("fanfare.toml", text);
    Config::read(&args(&["--config", &path]), [])
}

/// A file with `setting` in the table of `row`, with a value that is not the default.
fn file(table: Table, setting: &str) -> String {
    match table {
        Table::Limits => format!("[limits]\n{setting} = \"3s\"\n"),
        Table::App => format!("[apps.shop]\n{setting} = \"3MiB\"\n"),
    }
}

#[test]
fn an_old_name_in_the_file_means_the_new_one_and_is_warned_of() {
    let folder = Folder::new("renamed");
    for row in &RENAMED {
        let new = read(&folder, &file(row.table, row.new));
        let old = read(&folder, &file(row.table, row.old));
        assert!(
            new.problems.is_empty() && new.warnings.is_empty(),
            "{row:?}"
        );
        assert!(old.problems.is_empty(), "{row:?}: {:?}", old.problems);
        assert_eq!(old.config, new.config);
        assert_ne!(old.config, Config::default());

        let [warning] = &old.warnings[..] else {
            panic!("{:?}", old.warnings);
        };
        let says = format!("line 2: \"{}\" is now \"{}\"", row.old, row.new);
        assert!(warning.contains(&says), "{warning}");
    }
}

#[test]
fn an_old_name_beside_its_new_one_is_refused() {
    let folder = Folder::new("renamed-twice");
    for row in &RENAMED {
        let both = file(row.table, row.new) + file(row.table, row.old).split_once('\n').unwrap().1;
        let loaded = read(&folder, &both);
        assert_eq!(loaded.problems.len(), 1, "{both}: {:?}", loaded.problems);
        assert!(loaded.warnings.is_empty());
    }
}

#[test]
fn an_old_name_of_a_limit_is_read_in_flags_and_variables() {
    for row in RENAMED.iter().filter(|row| row.table == Table::Limits) {
        let flag = Config::read(&args(&["--limit", &format!("{}=3s", row.old)]), []);
        let name = format!("FANFARE_LIMIT_{}", row.old.to_uppercase());
        let variable = Config::read(&args(&[]), [(name.clone(), "3s".to_owned())]);
        let new = load(&["--limit", &format!("{}=3s", row.new)], &[]).unwrap();
        for (loaded, place) in [(flag, "--limit"), (variable, &name)] {
            assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
            assert_eq!(loaded.config, new);
            let [warning] = &loaded.warnings[..] else {
                panic!("{:?}", loaded.warnings);
            };
            assert!(warning.starts_with(place), "{warning}");
        }
    }
}
