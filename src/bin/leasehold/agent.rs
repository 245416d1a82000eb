//! `agent`: one agent as a process of its own.

use std::io;

use leasehold::{Agent, Builder, Quotas, StartError, Timing};
use rustix::process::Signal;
use tracing_subscriber::EnvFilter;

use crate::{
    args::{AgentArgs, Profile},
    exit::{self, Failed},
    output,
    seam::{Either, Signals, select2},
    secure,
};

/// What is logged unless RUST_LOG says otherwise: ours, and what openraft warns of.
const LOGGED: &str = "info,openraft=warn";

/// Runs the agent until a signal or its own end.
pub(crate) async fn agent(args: AgentArgs) -> Result<(), Failed> {
    log_to_stderr();
    // A second signal finds the process stopping already; whoever is in a hurry has SIGKILL, which harms nobody.
    let mut signals = Signals::of(&[Signal::TERM, Signal::INT])?;
    let agent = match select2(builder(&args)?.start(), signals.next()).await {
        Either::First(started) => started.map_err(failed)?,
        Either::Second(_) => return Ok(()),
    };
    let status = agent.status();
    let ready = output::line(&format!(
        "ready agent={} address={} node={} cluster={} storage={}",
        status.agent,
        status.address,
        status.node,
        status.cluster,
        if status.durable { "disk" } else { "memory" },
    ));
    if let Err(failed) = ready {
        // It serves all the same.
        failed.tell();
    }
    match select2(signals.next(), agent.stopped()).await {
        Either::First(_) => {
            agent.shutdown().await;
            Ok(())
        }
        Either::Second(reason) => {
            agent.shutdown().await;
            if agent.has_left() {
                return Ok(());
            }
            let text = format!(
                "the agent {} has stepped down: {reason}; it answers nobody any more. Free the cause, and start it again",
                status.agent
            );
            Err(Failed::with(exit::STEPPED_DOWN, text))
        }
    }
}

fn builder(args: &AgentArgs) -> Result<Builder, Failed> {
    let timing = match args.profile {
        Profile::Default => Timing::default(),
        Profile::FastLan => Timing::fast_lan(),
        Profile::Wan => Timing::wan(),
    };
    let mut builder = Agent::builder(&args.name)
        .listen(&args.listen)
        .founders(&args.founders)
        .join(&args.join)
        .observer(args.observer)
        .timing(timing);
    if let Some(voters) = args.voters_max {
        builder = builder.voters_max(voters);
    }
    if let Some(span) = args.dead_after {
        builder = builder.dead_after(span);
    }
    if let Some(span) = args.forget_after {
        builder = builder.forget_after(span);
    }
    if let Some(address) = &args.advertise {
        builder = builder.advertise(address);
    }
    if let Some(dir) = &args.data_dir {
        builder = builder.data_dir(dir);
    }
    if let Some(ttl) = args.ttl {
        builder = builder.ttl(ttl);
    }
    let mut quotas = Quotas::default();
    for (name, to) in &args.quotas {
        quotas.set(name, *to);
    }
    builder = builder.quotas(quotas);
    if args.danger_fixed_membership {
        builder = builder.danger_fixed_membership();
    }
    secure::agent(args, builder)
}

/// The library speaks of the builder's methods; here they are flags.
fn failed(error: StartError) -> Failed {
    let StartError::Config(config) = &error else { return error.into() };
    Failed::of_settings(config)
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(output::colour(&io::stderr()))
        // They would go to standard error, where they can't be written either.
        .log_internal_errors(false)
        .init();
}
