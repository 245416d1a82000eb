//! The command line: a cluster to try out, an agent to run, and `flock` for a cluster.

mod agent;
mod args;
mod by_hand;
mod certs;
#[cfg(feature = "chaos")]
mod chaos;
mod config;
mod danger;
mod demo;
mod exit;
mod family;
mod group;
mod guard;
mod help;
mod look;
mod manual;
mod members;
mod output;
mod run;
mod seam;
mod secure;
mod span;
mod terminal;
mod watch;
mod words;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser as _;

use crate::{
    args::{Command, GuardArgs},
    exit::Failed,
};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let result = if args.get(1).is_some_and(|arg| arg == "__guard") {
        let args = GuardArgs::parse_from(args.into_iter().skip(1));
        // One socket and one child: a thread is enough.
        in_runtime(&mut tokio::runtime::Builder::new_current_thread(), guard::guard(args))
            .map(|()| ExitCode::SUCCESS)
    } else {
        config::parse(args).and_then(|cli| {
            in_runtime(&mut tokio::runtime::Builder::new_multi_thread(), carry_out(cli.command))
        })
    };
    result.unwrap_or_else(Failed::tell)
}

fn in_runtime<T>(
    runtime: &mut tokio::runtime::Builder,
    future: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| Failed::new(format!("the async runtime does not start: {error}")))?;
    let result = runtime.block_on(future);
    // A lookup that hangs in the resolver must not keep the process.
    runtime.shutdown_background();
    result
}

async fn carry_out(command: Command) -> Result<ExitCode, Failed> {
    match command {
        Command::Demo => demo::demo().await?,
        Command::Agent(args) => agent::agent(args).await?,
        Command::Status(args) => look::status(args).await?,
        Command::Holder(args) => look::holder(args).await?,
        Command::Leases(args) => look::leases(args).await?,
        Command::Watch(args) => watch::watch(args).await?,
        Command::Run(args) => return run::run(args).await.map(ExitCode::from),
        Command::Revoke(args) => by_hand::revoke(args).await?,
        Command::Transfer(args) => by_hand::transfer(args).await?,
        Command::Members(args) => members::members(args).await?,
        Command::Promote(args) => members::promote(args).await?,
        Command::Remove(args) => members::remove(args).await?,
        Command::Leave(args) => members::leave(args).await?,
        Command::Danger(args) => danger::danger(args).await?,
        #[cfg(feature = "chaos")]
        Command::Chaos(args) => chaos::chaos(&args)?,
        Command::Certs(args) => certs::certs(args)?,
        Command::Completions(args) => manual::completions(&args)?,
        Command::Man(args) => manual::man(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
