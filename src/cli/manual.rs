//! `fanfare completions` and `fanfare man`: what shells and `man` need to know, made from the arguments themselves.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Failure, output};
use crate::nearest::nearest;

/// Arguments of `fanfare completions`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fanfare completions bash > /etc/bash_completion.d/fanfare
  fanfare completions zsh > \"${fpath[1]}/_fanfare\"
  fanfare completions fish > ~/.config/fish/completions/fanfare.fish")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

/// Arguments of `fanfare man`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fanfare man | man -l -
  fanfare man serve > /usr/local/share/man/man1/fanfare-serve.1")]
pub(super) struct Man {
    /// A command, for its own page
    command: Option<String>,
}

impl Completions {
    /// Prints the script.
    ///
    /// # Errors
    /// When stdout is closed.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "fanfare", &mut script);
        Ok(output::print_bytes(&script)?)
    }
}

impl Man {
    /// Prints the page.
    ///
    /// # Errors
    /// An unknown command, or a closed stdout.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut command = Cli::command();
        // Only after this the commands have the flags that all of them share, such as `--help`.
        command.build();
        if let Some(name) = &self.command {
            let known: Vec<_> = command.get_subcommands().collect();
            let Some(found) = known.iter().find(|known| known.get_name() == name) else {
                let names: Vec<_> = known.iter().map(|known| known.get_name()).collect();
                let known = names.iter().map(|name| (*name, *name));
                let hint = match nearest(name, known, |known| known.len() / 2) {
                    Some(meant) => format!("did you mean \"{meant}\"?"),
                    None => format!("the commands are {}", names.join(", ")),
                };
                return Err(Failure::Usage(format!(
                    "unknown command \"{name}\"; {hint}"
                )));
            };

            command = (*found).clone();
        }

        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        Ok(output::print_bytes(&page)?)
    }
}
