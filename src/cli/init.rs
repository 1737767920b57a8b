//! `fanfare init`: writes an example that runs as it is.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use super::{Failure, output, serve::program};

/// Arguments of `fanfare init`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fanfare init chat
  fanfare init chat my-chat")]
pub(super) struct Init {
    /// What to write: a chat with history and a list of who is here
    example: Example,
    /// The folder to write it into; one named after the example if this is left out
    folder: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Example {
    Chat,
}

impl Example {
    fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
        }
    }

    /// Its files with their texts.
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // In the program itself, so that they need no download and fit its version.
            Self::Chat => &[
                ("README.md", include_str!("../../examples/chat/README.md")),
                ("chat.js", include_str!("../../examples/chat/chat.js")),
                ("index.html", include_str!("../../examples/chat/index.html")),
                (
                    "package.json",
                    include_str!("../../examples/chat/package.json"),
                ),
                ("server.mjs", include_str!("../../examples/chat/server.mjs")),
            ],
        }
    }
}

impl Init {
    /// Writes the files into a new or an empty folder, and prints how to start the example.
    ///
    /// # Errors
    /// If the folder has something in it, or cannot be written.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let folder = self
            .folder
            .clone()
            .unwrap_or_else(|| PathBuf::from(self.example.name()));
        let at = folder.display();
        if !is_free(&folder).map_err(|error| Failure::File(format!("cannot read {at}: {error}")))? {
            return Err(Failure::File(format!(
                "{at} is not an empty folder; name another one: fanfare init {} FOLDER",
                self.example.name()
            )));
        }

        write(&folder, self.example.files())
            .map_err(|error| Failure::File(format!("cannot write into {at}: {error}")))?;
        let names: Vec<_> = self.example.files().iter().map(|(name, _)| *name).collect();
        let text = format!(
            "Wrote {} into {at}.\n\n\
             Run it in two terminals:\n  \
             {} serve --channel-history 'room-*=100'\n  \
             cd {at} && node server.mjs\n\n\
             Then open http://localhost:8090/?name=ann\n",
            names.join(", "),
            program()
        );

        Ok(output::print_bytes(text.as_bytes())?)
    }
}

/// Whether nothing is there, or an empty folder.
fn is_free(folder: &Path) -> io::Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(error),
    }
}

fn write(folder: &Path, files: &[(&str, &str)]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (name, text) in files {
        // Nothing that has come there in the meantime is overwritten.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(folder.join(name))?;
        file.write_all(text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_of_an_example_is_written() {
        for example in Example::value_variants() {
            let there = format!("{}/examples/{}", env!("CARGO_MANIFEST_DIR"), example.name());
            // What npm leaves there is not a part of it.
            let is_part =
                |name: &String| !["node_modules", "package-lock.json", ".npmrc"].contains(&&**name);
            let there: BTreeSet<String> = fs::read_dir(there)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(is_part)
                .collect();
            let written = example.files().iter().map(|(name, _)| (*name).to_owned());
            assert_eq!(there, written.collect());
        }
    }

    #[test]
    fn only_an_empty_folder_is_written_to() {
        let folder = std::env::temp_dir().join(format!("fanfare-init-{}", std::process::id()));
        let init = |folder: &Path| Init {
            example: Example::Chat,
            folder: Some(folder.to_owned()),
        };
        init(&folder).run().unwrap();
        let page = fs::read_to_string(folder.join("index.html")).unwrap();
        assert!(page.starts_with("<!doctype html>"));
        fs::write(folder.join("index.html"), "mine").unwrap();

        let again = init(&folder).run().unwrap_err().to_string();
        assert!(again.contains("is not an empty folder"), "{again}");
        let file = init(&folder.join("index.html")).run().unwrap_err();
        assert!(file.to_string().contains("is not an empty folder"));
        assert_eq!(
            fs::read_to_string(folder.join("index.html")).unwrap(),
            "mine"
        );
        fs::remove_dir_all(folder).unwrap();
    }
}
