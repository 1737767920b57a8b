//! Why a command ends without having done its work, and what the process then ends with.

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
};

use clap::builder::styling::{AnsiColor, Style};

use super::remote::RequestError;
use crate::{
    app::SetupError,
    auth::{SignError, TokenKeyError},
    config::{Config, ConfigError},
    server::StartError,
    supervisor::TaskFailed,
};

const ERROR: Style = AnsiColor::Red.on_default().bold();

/// Why a command ends without having done its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// An argument or a variable that clap cannot judge by itself.
    #[error("{0}")]
    Usage(String),
    /// A file or folder cannot be read or written.
    #[error("{0}")]
    File(String),
    /// A data directory cannot be used, or is damaged.
    #[error("{0}")]
    Data(String),
    /// The configuration cannot be loaded, or contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The server does not start, since it cannot listen.
    #[error("{error}{hint}")]
    Listen {
        /// What the system refused.
        error: StartError,
        /// What to do.
        hint: String,
    },
    /// The server has stopped because of a defect.
    #[error("{0}. Start it again, and report this line as a defect of Fanfare")]
    Task(#[from] TaskFailed),
    /// A secret cannot sign tokens.
    #[error(transparent)]
    Secret(#[from] TokenKeyError),
    /// No token can say this.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The server could not be asked, or refused.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The refusal was printed already, as `--json` prints every answer.
    #[error("refused")]
    Printed,
    /// The server closed the connection for good.
    #[error("the server closed the connection for good: {code}{reason}")]
    Closed {
        /// The close code.
        code: u16,
        /// `, ` and the reason, or nothing.
        reason: String,
    },
    /// The server refused what was asked of it over the connection.
    #[error("the server refused: {message} ({code})")]
    Refused {
        /// The code of the error.
        code: String,
        /// What is wrong.
        message: String,
    },
    /// The result cannot be written.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    /// The system gives no runtime or no signals.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
}

/// Why the server does not start, with what to do if it cannot listen.
pub(super) fn cannot_listen(error: StartError, config: &Config) -> Failure {
    let StartError::Listen {
        address,
        error: ref why,
    } = error
    else {
        return Failure::Start(error);
    };

    let flag = if config.admin_listen == Some(address) {
        "--admin-listen"
    } else {
        "--listen"
    };

    let hint = match why.kind() {
        io::ErrorKind::AddrInUse => {
            let port = address.port().checked_add(1).unwrap_or(7071);
            let free = SocketAddr::new(address.ip(), port);
            format!(". Choose another port with {flag}, for example {flag} {free}")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!(". This machine does not have that address; choose another one with {flag}")
        }
        io::ErrorKind::PermissionDenied => {
            format!(". Ports below 1024 are for root; choose another one with {flag}")
        }
        _ => String::new(),
    };

    Failure::Listen { error, hint }
}

impl Failure {
    /// 2 if other arguments or another configuration are needed, 1 if the same may work at another time.
    pub(super) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            // Another process may end, and a disk may come back.
            Self::Start(StartError::Setup(SetupError::Data(_))) => 1,
            Self::Usage(_)
            | Self::Config(_)
            | Self::Secret(_)
            | Self::Sign(_)
            | Self::Start(StartError::Config(_) | StartError::Setup(_)) => 2,
            _ => 1,
        })
    }

    /// Prints the failure to stderr. A reader that closed our stdout has seen enough: that is not a failure.
    pub(super) fn report(&self) -> ExitCode {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Self::Printed => {}
            Self::Config(ConfigError { problems })
            | Self::Start(StartError::Config(ConfigError { problems })) => {
                problems.iter().for_each(print);
            }
            _ => print(self),
        }
        self.code()
    }
}

fn print(error: &impl std::fmt::Display) {
    // Nothing is left to say it to if this fails.
    let _ = writeln!(anstream::stderr().lock(), "{ERROR}error:{ERROR:#} {error}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::Supervisor;

    #[test]
    fn a_server_that_has_failed_ends_the_command_with_1_and_the_name_of_the_task() {
        let supervisor = Supervisor::default();
        supervisor.not_started("shard 1", &"no memory");
        let failure = Failure::from(supervisor.failure().unwrap());
        // Codes of the standard library cannot be compared otherwise.
        let (code, one) = (failure.code(), ExitCode::FAILURE);
        assert_eq!(format!("{code:?}"), format!("{one:?}"));
        assert_eq!(
            failure.to_string(),
            "shard 1 did not start: no memory; the server has stopped. Start it again, and report this line as a defect \
             of Fanfare"
        );
    }
}
