//! Where a comparison is kept.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::error::{Doing, Result};

/// Makes `into`/`name`, or that with -2, -3 … where there is one: nothing is overwritten.
pub(super) fn create(into: &Path, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(into).doing(format!("cannot make {}", into.display()))?;
    let mut number = 1;
    loop {
        let folder = match number {
            1 => into.join(name),
            _ => into.join(format!("{name}-{number}")),
        };
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            other => {
                return other
                    .doing(format!("cannot make {}", folder.display()))
                    .map(|()| folder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_folder_is_used_twice() {
        let into = std::env::temp_dir().join(format!("fanfare-compare-{}", std::process::id()));
        let names: Vec<_> = (0..3).map(|_| create(&into, "a").unwrap()).collect();
        assert_eq!(names, [into.join("a"), into.join("a-2"), into.join("a-3")]);
        fs::remove_dir_all(into).unwrap();
    }
}
