//! The command line: a cluster to try out, an agent to run, and `flock` for a cluster.

mod agent;
mod args;
mod demo;
mod exit;
mod group;
mod guard;
mod look;
mod output;
mod run;
mod seam;
mod span;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{
    args::{Cli, Command},
    exit::Failed,
};

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let mut runtime = match &command {
        // One connection and one child, or none: a thread is enough.
        Command::Guard(_) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let result = runtime
        .enable_all()
        .build()
        .map_err(|error| Failed::new(format!("the async runtime does not start: {error}")))
        .and_then(|runtime| {
            let result = runtime.block_on(async {
                match command {
                    Command::Demo => demo::demo().await.map(|()| ExitCode::SUCCESS),
                    Command::Agent(args) => agent::agent(args).await.map(|()| ExitCode::SUCCESS),
                    Command::Status(args) => look::status(args).await.map(|()| ExitCode::SUCCESS),
                    Command::Holder(args) => look::holder(args).await.map(|()| ExitCode::SUCCESS),
                    Command::Leases(args) => look::leases(args).await.map(|()| ExitCode::SUCCESS),
                    Command::Run(args) => run::run(args).await.map(ExitCode::from),
                    Command::Guard(args) => guard::guard(args).await.map(|()| ExitCode::SUCCESS),
                }
            });
            // A lookup that hangs in the resolver must not keep the process.
            runtime.shutdown_background();
            result
        });
    result.unwrap_or_else(Failed::tell)
}
