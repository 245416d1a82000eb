//! `members`, `promote`, `remove`, `leave`: who belongs to the cluster.

use leasehold::{Client, MemberReport};
use serde_json::{Value, json};

use crate::{
    args::{LookArgs, MemberArgs},
    exit::Failed,
    output::{self, Table, in_ms},
};

/// The members, as the leader sees them.
pub(crate) async fn members(args: LookArgs) -> Result<(), Failed> {
    let client = output::connect(&args.connect, None).await?;
    let members = client.members().await?;
    client.close().await;
    if args.json {
        return members.iter().try_for_each(|member| output::line(&member_json(member).to_string()));
    }
    let mut table = Table::new(&["AGENT", "ADDRESS", "ROLE", "HEARD", "LOG", "BEHIND", "NODE"]);
    for member in &members {
        table.row([
            member.agent.clone(),
            member.address.clone(),
            role(member),
            member.heard_ago.map_or_else(|| "never".to_owned(), |ago| format!("{} ms ago", ago.as_millis())),
            member.log_index.to_string(),
            member.behind.to_string(),
            member.node.to_string(),
        ]);
    }
    table.print()
}

fn role(member: &MemberReport) -> String {
    let wish = if member.may_vote { "" } else { ", never votes" };
    format!("{}{wish}", member.role)
}

fn member_json(member: &MemberReport) -> Value {
    json!({
        "agent": member.agent,
        "node": member.node.to_string(),
        "address": member.address,
        "role": member.role.to_string(),
        "may_vote": member.may_vote,
        "heard_ms_ago": member.heard_ago.map(in_ms),
        "log_index": member.log_index,
        "behind": member.behind,
    })
}

/// Lets an observer vote.
pub(crate) async fn promote(args: MemberArgs) -> Result<(), Failed> {
    let (client, member) = find(&args).await?;
    let promoted = client.promote(member.node).await;
    done(&args, client, &member, "promoted", promoted).await
}

/// Removes a member that is out of reach.
pub(crate) async fn remove(args: MemberArgs) -> Result<(), Failed> {
    let (client, member) = find(&args).await?;
    let removed = client.remove(member.node).await;
    done(&args, client, &member, "removed", removed).await
}

/// Tells an agent to leave.
pub(crate) async fn leave(args: MemberArgs) -> Result<(), Failed> {
    let (client, member) = find(&args).await?;
    let left = client.leave(&member.address).await;
    done(&args, client, &member, "left", left).await
}

/// The member that is meant: by its agent's name, its address or its node id.
async fn find(args: &MemberArgs) -> Result<(Client, MemberReport), Failed> {
    let client = output::connect(&args.look.connect, None).await?;
    let members = client.members().await?;
    let meant = |member: &&MemberReport| {
        member.agent == args.member || member.address == args.member || member.node.to_string() == args.member
    };
    let mut found = members.iter().filter(meant);
    let failed = match (found.next(), found.next()) {
        (Some(member), None) => return Ok((client, member.clone())),
        (None, _) => {
            let names: Vec<&str> = members.iter().map(|member| member.agent.as_str()).collect();
            format!("{:?} is no member; there are {}", args.member, names.join(", "))
        }
        (Some(one), Some(other)) => format!(
            "several members are called {:?}, {} and {} among them; name one by its node id",
            args.member, one.node, other.node
        ),
    };
    client.close().await;
    Err(Failed::new(failed))
}

async fn done(
    args: &MemberArgs,
    client: Client,
    member: &MemberReport,
    what: &str,
    result: Result<(), leasehold::MemberError>,
) -> Result<(), Failed> {
    client.close().await;
    result?;
    if args.look.json {
        let json = json!({ "done": what, "agent": member.agent, "node": member.node.to_string() });
        return output::line(&json.to_string());
    }
    output::line(&format!("{what}: {} (node {})", member.agent, member.node))
}
