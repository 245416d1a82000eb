//! `revoke` and `transfer`: taking a lease from whoever holds it.

use std::{collections::BTreeSet, time::Duration};

use leasehold::{AgentName, ChangeKind, Client, HolderInfo, Name, Token, Watch};
use serde_json::json;

use crate::{
    args::{ByHandArgs, RevokeArgs, TransferArgs},
    exit::{self, Failed},
    look::lease_json,
    output, seam,
};

/// Revokes all leases on the name.
pub(crate) async fn revoke(args: RevokeArgs) -> Result<(), Failed> {
    by_hand(&args.name, &args.reason, None, &args.by_hand).await
}

/// Revokes the lease on the name, for a waiter.
pub(crate) async fn transfer(args: TransferArgs) -> Result<(), Failed> {
    let to = AgentName::new(&args.to)
        .map_err(|error| Failed::with(exit::USAGE, format!("can't hand over to {:?}: {error}", args.to)))?;
    by_hand(&args.name, &args.reason, Some(&to), &args.by_hand).await
}

async fn by_hand(name: &str, reason: &str, to: Option<&AgentName>, args: &ByHandArgs) -> Result<(), Failed> {
    let name = Name::new(name).map_err(|error| Failed::with(exit::USAGE, error))?;
    let client = output::connect(&args.look.connect, args.by.as_deref()).await?;
    let result = on(&client, &name, reason, to, args).await;
    client.close().await;
    result
}

async fn on(
    client: &Client,
    name: &Name,
    reason: &str,
    to: Option<&AgentName>,
    args: &ByHandArgs,
) -> Result<(), Failed> {
    // Begun before: what follows the revocation must not be missed.
    let watch = match args.wait {
        Some(within) => Some((client.watch(name.as_str()).await?, within)),
        None => None,
    };
    let revoked = match to {
        Some(to) => client.transfer(name.as_str(), to, reason).await?,
        None => client.revoke(name.as_str(), reason).await?,
    };
    if revoked.is_empty() {
        return Err(Failed::new(format!(
            "nobody holds {name:?}, so nothing was revoked; see who holds what with `leasehold leases`"
        )));
    }
    if !args.look.json {
        for held in &revoked {
            let heir = to.map_or_else(String::new, |to| format!(", {to} has it next"));
            output::line(&format!(
                "revoked: {name}, held by {} with token {}{heir}",
                held.agent, held.token
            ))?;
        }
    }
    let next = match watch {
        Some((mut watch, within)) => Some(next(client, name, &mut watch, &revoked, within).await),
        None => None,
    };
    if args.look.json {
        let all = |held: &[HolderInfo]| held.iter().map(|held| lease_json(name, held)).collect::<Vec<_>>();
        let mut json = json!({ "name": name.as_str(), "revoked": all(&revoked) });
        if let Some(next) = &next {
            // It is revoked, also when it is not known who has it next.
            json["next"] = next.as_ref().ok().map(|next| all(next)).into();
        }
        output::line(&json.to_string())?;
    }
    let Some(next) = next.transpose()? else { return Ok(()) };
    if !args.look.json {
        for held in &next {
            output::line(&format!("granted: {name}, held by {} with token {}", held.agent, held.token))?;
        }
        if next.is_empty() {
            output::line(&format!("free: {name}"))?;
        }
    }
    Ok(())
}

/// Who has the name when the revoked leases are over.
async fn next(
    client: &Client,
    name: &Name,
    watch: &mut Watch,
    revoked: &[HolderInfo],
    within: Duration,
) -> Result<Vec<HolderInfo>, Failed> {
    let over = async {
        let mut left: BTreeSet<Token> = revoked.iter().map(|held| held.token).collect();
        while !left.is_empty() {
            match watch.next().await.map(|change| change.kind) {
                Some(ChangeKind::Ended { token, .. }) => {
                    left.remove(&token);
                }
                Some(ChangeKind::Present { held, .. }) => {
                    left.retain(|token| held.iter().any(|(_, held)| held.token == *token));
                }
                Some(_) => {}
                None => break,
            }
        }
    };
    if seam::timeout(within, over).await.is_none() {
        let ttl = revoked.iter().map(|held| held.ttl).max().unwrap_or_default();
        return Err(Failed::new(format!(
            "{name:?} is revoked, but was not given back within {within:?}: its holder can't be reached, or takes its time; it is over {ttl:?} after its last renewal at the latest"
        )));
    }
    // Granted by the same entry that ended the last of them.
    Ok(client.inspect(name.as_str()).await?.holders)
}
