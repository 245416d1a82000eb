//! How the program ends: exit codes, and errors as a sentence on standard error.

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use leasehold::{
    AcquireError, ConfigError, ConfigFault, ConnectError, MemberError, ReadError, RevokeError, StartError,
};

/// Something went wrong.
pub(crate) const ERROR: u8 = 1;
/// The command line is wrong; clap uses the same.
pub(crate) const USAGE: u8 = 2;
/// An agent has stepped down: its storage failed.
pub(crate) const STEPPED_DOWN: u8 = 74;
/// `run`: the lease was not acquired.
pub(crate) const NOT_ACQUIRED: u8 = 75;
/// `run`: the lease was lost, and the command was ended.
pub(crate) const LOST: u8 = 76;
/// `run`: the command can't be executed, as shells have it.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// `run`: there is no such command, as shells have it.
pub(crate) const NOT_FOUND: u8 = 127;
/// A process that was ended by a signal: this plus the signal's number, as shells have it.
pub(crate) const SIGNAL: u8 = 128;

/// Why the program ends without having done what it should.
#[derive(Debug)]
pub(crate) struct Failed {
    code: u8,
    text: String,
}

impl Failed {
    /// With exit code 1.
    pub(crate) fn new(text: impl fmt::Display) -> Self {
        Self::with(ERROR, text)
    }

    /// With this exit code.
    pub(crate) fn with(code: u8, text: impl fmt::Display) -> Self {
        Self { code, text: text.to_string() }
    }

    /// Settings are wrong. The library speaks of the builder's methods; here they are flags.
    pub(crate) fn of_settings(config: &ConfigError) -> Self {
        let mut text = config.to_string();
        for fault in &config.faults {
            text.push_str(match fault {
                ConfigFault::NotAFounder { .. } => " (here: --founder, and --advertise)",
                ConfigFault::NoFounders => " (here: --founder, or --join)",
                ConfigFault::Plaintext { .. } => {
                    " (here: --tls-ca, --tls-cert and --tls-key, or --danger-plaintext)"
                }
                ConfigFault::Quota { .. } => " (here: --quota)",
                ConfigFault::NoAdvertise { .. } => " (here: --advertise)",
                ConfigFault::AllowWithoutTls => " (here: --tls-ca, --tls-cert and --tls-key)",
                _ => "",
            });
        }
        Self::with(USAGE, text)
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Says it on standard error, and returns the exit code.
    pub(crate) fn tell(self) -> ExitCode {
        tell(&self.text);
        ExitCode::from(self.code)
    }
}

/// A sentence on standard error. That it can't be written (a full disk, a pipe without a reader) changes nothing.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "leasehold: {text}");
}

impl From<ConnectError> for Failed {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Config(config) => Self::of_settings(&config),
            error => Self::new(error),
        }
    }
}

impl From<StartError> for Failed {
    fn from(error: StartError) -> Self {
        let code = if matches!(error, StartError::Config(_)) { USAGE } else { ERROR };
        Self::with(code, error)
    }
}

impl From<ReadError> for Failed {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Name(_) => Self::with(USAGE, error),
            // The library's remedy is a method.
            ReadError::Unavailable { detail } => Self::new(format!(
                "no linearizable answer: {detail}; ask again, and see with `leasehold status` which agents answer"
            )),
            error => Self::new(error),
        }
    }
}

impl From<MemberError> for Failed {
    fn from(error: MemberError) -> Self {
        Self::new(error)
    }
}

impl From<AcquireError> for Failed {
    fn from(error: AcquireError) -> Self {
        let code = match error {
            AcquireError::Held { .. } | AcquireError::Closed { .. } | AcquireError::TimedOut { .. } => {
                NOT_ACQUIRED
            }
            AcquireError::Name(_)
            | AcquireError::Ttl(_)
            | AcquireError::Metadata { .. }
            | AcquireError::Mode { .. }
            | AcquireError::LockDelay { .. } => USAGE,
            _ => ERROR,
        };
        // The library's remedy is a method; here it is a flag.
        match &error {
            AcquireError::Held { name, holder } => Self::with(
                code,
                format!("{name:?} is {holder}; leave --no-wait (or --wait 0) out to wait for it"),
            ),
            AcquireError::Closed { name, agent, delay } => Self::with(
                code,
                format!(
                    "{name:?} is closed to others for {delay:?} after the lease of {agent} has expired; leave --no-wait (or --wait 0) out to wait for it"
                ),
            ),
            _ => Self::with(code, error),
        }
    }
}

impl From<RevokeError> for Failed {
    fn from(error: RevokeError) -> Self {
        match error {
            RevokeError::Read(error) => error.into(),
            RevokeError::Reason { .. } => Self::with(USAGE, error),
            _ => Self::new(error),
        }
    }
}
