//! `danger`: what is to be done deliberately, and only when nothing else is left: forced recovery.

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand};
use leasehold::{
    ClusterId, RecoverError, Token,
    danger::{self, Holders, Recovery, Survey},
};
use serde_json::{Value, json};

use crate::{
    exit::{self, Failed},
    help,
    output::{self, Table, in_ms},
    span,
};

#[derive(Args)]
pub(crate) struct DangerArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Show what the data directory of a stopped agent has
    #[command(after_help = help::SURVEY)]
    Survey(SurveyArgs),
    /// Make the data directory of a stopped agent into a cluster of its own, when the majority is gone for good
    #[command(after_help = help::RECOVER)]
    Recover(RecoverArgs),
}

#[derive(Args)]
struct SurveyArgs {
    /// The data directory
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct RecoverArgs {
    #[command(flatten)]
    survey: SurveyArgs,
    /// A statement: nobody believes in a lease of the old cluster any more. All processes that held any are stopped, or
    /// their longest ttl has gone by since the majority was lost
    #[arg(long, conflicts_with = "wait_out")]
    holders_gone: bool,
    /// Wait for so long at first: the longest ttl, and lock delay added, that anybody asks for
    #[arg(long, value_parser = span::parse, value_name = "SPAN")]
    wait_out: Option<Duration>,
    /// Don't ask; then the cluster has to be named
    #[arg(long, requires = "cluster")]
    yes: bool,
    /// The id of the cluster that is to be recovered
    #[arg(long, value_name = "ID")]
    cluster: Option<ClusterId>,
    /// The address at which others reach the agent [default: as it was]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// New tokens are larger than this one as well: for a machine whose clock is not to be trusted
    #[arg(long, value_name = "TOKEN")]
    tokens_above: Option<u64>,
}

/// Looks, or recovers.
pub(crate) async fn danger(args: DangerArgs) -> Result<(), Failed> {
    match args.what {
        What::Survey(args) => {
            let found = danger::survey(&args.data_dir).await?;
            if args.json { output::line(&survey_json(&found).to_string()) } else { show(&found) }
        }
        What::Recover(args) => recover(args).await,
    }
}

async fn recover(args: RecoverArgs) -> Result<(), Failed> {
    let SurveyArgs { data_dir, json } = args.survey;
    let found = danger::survey(&data_dir).await?;
    if !json {
        show(&found)?;
    }
    let holders = match (args.holders_gone, args.wait_out) {
        (true, _) => Holders::Gone,
        (false, Some(span)) => Holders::WaitOut(span),
        (false, None) => {
            return Err(Failed::with(
                exit::USAGE,
                "nothing was done: say what is known of those who held leases, --holders-gone or --wait-out SPAN (`leasehold danger recover --help` tells which)",
            ));
        }
    };
    if !args.yes && !confirmed(&found)? {
        return Err(Failed::new("nothing was done: the cluster's id was not typed"));
    }
    if let (Holders::WaitOut(span), false) = (holders, json) {
        output::line(&format!("waiting for {span:?}; until then nothing is changed"))?;
    }
    let mut recovery = Recovery::of(args.cluster.unwrap_or(found.cluster), holders);
    if let Some(address) = args.advertise {
        recovery = recovery.advertise(address);
    }
    if let Some(token) = args.tokens_above {
        recovery = recovery.tokens_above(Token::new(token));
    }
    let made = danger::recover(&data_dir, recovery).await?;
    let generation = made.cluster.generation();
    if json {
        let kept = made.kept.display().to_string();
        let done = json!({
            "recovered": found.cluster.to_string(), "cluster": made.cluster.to_string(), "generation": generation,
            "tokens_above": made.tokens_above.to_string(), "address": made.address, "kept": kept,
        });
        return output::line(&done.to_string());
    }
    output::line(&format!("recovered: it is cluster {} now, of generation {generation}", made.cluster))?;
    output::line(&format!("  new tokens are larger than {}", made.tokens_above))?;
    output::line(&format!("  what was there is kept in {:?}", made.kept))?;
    output::line(&format!(
        "now start {} on this directory as before, and then the others with empty directories and --join {}",
        found.agent, made.address
    ))
}

/// Whether somebody at a terminal types the cluster's id.
fn confirmed(found: &Survey) -> Result<bool, Failed> {
    if !io::stdin().is_terminal() {
        return Err(Failed::with(
            exit::USAGE,
            format!(
                "nothing was done: nobody can be asked; where the majority of this cluster is gone for good, say --yes --cluster {}",
                found.cluster
            ),
        ));
    }
    output::line(&format!(
        "If a majority of these members can still be brought back, bring it back instead. If it comes back later, there \
         will be two clusters.\nTo recover this one by force, type its id ({}):",
        found.cluster
    ))?;
    let mut typed = String::new();
    io::stdin()
        .lock()
        .read_line(&mut typed)
        .map_err(|error| Failed::new(format!("the terminal can't be read: {error}")))?;
    Ok(typed.trim() == found.cluster.to_string())
}

fn show(found: &Survey) -> Result<(), Failed> {
    let Survey { cluster, node, agent, .. } = found;
    output::line(&format!("cluster {cluster}, generation {}", cluster.generation()))?;
    output::line(&format!("agent {agent}, node {node}"))?;
    output::line(&format!(
        "log index {} of term {}, committed at least up to {}; term {} was heard of",
        found.last_index, found.last_term, found.committed_index, found.term
    ))?;
    output::line(&format!(
        "{} leases, {} waiters, longest ttl {:?}, last token {}",
        found.leases, found.waiters, found.longest_ttl, found.last_token
    ))?;
    let mut table = Table::new(&["MEMBER", "ADDRESS", "ROLE", "NODE"]);
    for member in &found.members {
        let role = if member.voter { "voter" } else { "observer" };
        table.row([member.agent.clone(), member.addr.clone(), role.to_owned(), member.node.to_string()]);
    }
    table.print()
}

fn survey_json(found: &Survey) -> Value {
    let members: Vec<Value> = found
        .members
        .iter()
        .map(|member| {
            json!({
                "agent": member.agent, "node": member.node.to_string(), "address": member.addr, "voter": member.voter,
            })
        })
        .collect();
    json!({
        "cluster": found.cluster.to_string(),
        "generation": found.cluster.generation(),
        "agent": found.agent.to_string(),
        "node": found.node.to_string(),
        "term": found.term,
        "last_term": found.last_term,
        "last_index": found.last_index,
        "committed_index": found.committed_index,
        "last_token": found.last_token.to_string(),
        "leases": found.leases,
        "waiters": found.waiters,
        "longest_ttl_ms": in_ms(found.longest_ttl),
        "members": members,
    })
}

impl From<RecoverError> for Failed {
    fn from(error: RecoverError) -> Self {
        match error {
            RecoverError::ClockBehind { .. } => Self::new(format!("{error} (--tokens-above TOKEN)")),
            RecoverError::OtherCluster { .. }
            | RecoverError::SpanTooShort { .. }
            | RecoverError::TokensBelow { .. }
            | RecoverError::Address { .. } => Self::with(exit::USAGE, error),
            _ => Self::new(error),
        }
    }
}
