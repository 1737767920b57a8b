//! Keeps this machine's paths out of what is published.

use std::path::Path;

/// Stands for a folder that is not named.
const SOMEWHERE: &str = "PATH";

/// How a path is written where others read it: as it was given if it says nothing of this machine, else by its name.
pub(super) fn shown(path: &Path) -> String {
    let tells = path.is_absolute() || path.starts_with("..") || path.starts_with("~");
    match path.file_name() {
        Some(name) if tells => format!("{SOMEWHERE}/{}", name.to_string_lossy()),
        _ => path.display().to_string(),
    }
}

/// Texts that stand for what they must not say.
#[derive(Clone, Debug, Default)]
pub(super) struct Hidden(Vec<(String, String)>);

impl Hidden {
    /// Hides a program's path from now on.
    pub(super) fn program(&mut self, path: &Path) {
        self.add(path, &shown(path));
        if let Ok(path) = path.canonicalize() {
            self.add(&path, &shown(&path));
        }
    }

    /// Hides where a folder is, and what it is called.
    pub(super) fn folder(&mut self, path: &Path) {
        self.add(path, SOMEWHERE);
    }

    fn add(&mut self, path: &Path, shown: &str) {
        let text = path.display().to_string();
        // The root folder is in every path.
        if text != shown && text.len() > 1 {
            self.0.push((text, shown.to_owned()));
        }
        // The longest first: a folder's name must not be taken out of its files' names.
        self.0
            .sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    }

    /// `text` without what is hidden.
    pub(super) fn in_text(&self, text: &str) -> String {
        self.0
            .iter()
            .fold(text.to_owned(), |text, (hidden, shown)| {
                text.replace(hidden, shown)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_stay_and_others_keep_their_last_name() {
        assert_eq!(
            shown(Path::new("target/release/fanfare")),
            "target/release/fanfare"
        );
        assert_eq!(shown(Path::new("/home/ann/uws/server")), "PATH/server");
        assert_eq!(shown(Path::new("../uws/server")), "PATH/server");
    }

    #[test]
    fn hidden_paths_are_in_no_text() {
        let mut hidden = Hidden::default();
        hidden.folder(Path::new("/home/ann"));
        hidden.program(Path::new("/home/ann/uws/server"));
        let said = hidden.in_text("cannot start /home/ann/uws/server in /home/ann/x");
        assert_eq!(said, "cannot start PATH/server in PATH/x");
    }
}
