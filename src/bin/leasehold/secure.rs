//! `--tls-…`: the flags by which agents and those who ask them are known to each other.

use leasehold::{Builder, Client, ClientBuilder, Role, Tls};

use crate::{
    args::{AgentArgs, ConnectArgs, TlsArgs},
    exit::{self, Failed},
    output,
};

impl TlsArgs {
    /// The certificates, if any are given.
    fn tls(&self) -> Result<Option<Tls>, Failed> {
        match (&self.tls_ca, &self.tls_cert, &self.tls_key) {
            (None, None, None) => Ok(None),
            (Some(ca), Some(cert), Some(key)) => Ok(Some(Tls::from_files(ca, cert, key))),
            (ca, cert, key) => {
                let flags = [("--tls-ca", ca), ("--tls-cert", cert), ("--tls-key", key)];
                let missing: Vec<&str> =
                    flags.iter().filter(|(_, path)| path.is_none()).map(|(flag, _)| *flag).collect();
                Err(Failed::with(
                    exit::USAGE,
                    format!(
                        "--tls-ca, --tls-cert and --tls-key go together; give {} as well",
                        missing.join(" and ")
                    ),
                ))
            }
        }
    }
}

/// A client under this name; without one under its certificate's, and without that under this process's.
pub(crate) fn client(args: &ConnectArgs, name: Option<&str>) -> Result<ClientBuilder, Failed> {
    let tls = args.tls.tls()?;
    let name = match (name, &tls) {
        (Some(name), _) => name.to_owned(),
        (None, None) => output::own_name(),
        (None, Some(tls)) => {
            let own = tls.certificate().map_err(|error| Failed::with(exit::USAGE, error))?;
            own.bearer.map_or_else(output::own_name, |(_, name)| name.as_str().to_owned())
        }
    };
    let mut builder = Client::builder(name).agents(&args.connect);
    if let Some(tls) = tls {
        builder = builder.tls(tls);
    }
    Ok(if args.tls.danger_plaintext { builder.danger_plaintext() } else { builder })
}

/// The agent, as far as it is about who may be at the other end.
pub(crate) fn agent(args: &AgentArgs, mut builder: Builder) -> Result<Builder, Failed> {
    if let Some(tls) = args.tls.tls()? {
        builder = builder.tls(tls);
    }
    builder = builder
        .allow(Role::Member, &args.allow_members)
        .allow(Role::Client, &args.allow_clients)
        .allow(Role::Reader, &args.allow_readers);
    Ok(if args.tls.danger_plaintext { builder.danger_plaintext() } else { builder })
}
