//! `status`, `holder`, `leases`: looking, without changing anything.
//!
//! In JSON, tokens and node ids are strings: they use all 64 bits, and many readers of JSON keep only 53 of a number.

use std::{collections::BTreeSet, time::Duration};

use leasehold::{Client, HolderInfo, Name, ReadError, StatusReport};
use serde_json::{Value, json};

use crate::{
    args::{ConnectArgs, HolderArgs, LeasesArgs, LookArgs},
    exit::{self, Failed},
    output::{self, Table},
};

/// Who looks doesn't wait for long.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How many leases are asked for at once.
const PAGE: usize = 1_000;

async fn connect(args: &ConnectArgs) -> Result<Client, Failed> {
    let name = format!("leasehold/{}", std::process::id());
    Ok(Client::builder(name).agents(&args.connect).connect_within(CONNECT_WITHIN).connect().await?)
}

/// How the agents at the addresses are, and all other members that they know.
pub(crate) async fn status(args: LookArgs) -> Result<(), Failed> {
    let client = connect(&args.connect).await?;
    let mut addresses: BTreeSet<String> = client.addresses().iter().cloned().collect();
    addresses.extend(client.status().await?.members.into_iter().map(|member| member.addr));
    let asked = addresses.into_iter().map(async |address| {
        let report = client.status_of(&address).await;
        (address, report)
    });
    let answers = futures_util::future::join_all(asked).await;
    client.close().await;
    if args.json {
        answers.iter().for_each(|(address, answer)| output::line(&status_json(address, answer).to_string()));
    } else {
        status_table(&answers).print();
    }
    if answers.iter().all(|(_, answer)| answer.is_err()) {
        return Err(Failed::new("no agent answered; check that they run and are in reach"));
    }
    Ok(())
}

fn status_table(answers: &[(String, Result<StatusReport, ReadError>)]) -> Table {
    let mut table = Table::new(&[
        "AGENT", "ADDRESS", "ROLE", "TERM", "APPLIED", "LEASES", "WAITERS", "STORAGE", "VERSION", "CLUSTER",
    ]);
    for (address, answer) in answers {
        match answer {
            Ok(report) => table.row([
                report.agent.to_string(),
                address.clone(),
                if report.stopped.is_some() { "stopped".to_owned() } else { report.role.to_string() },
                report.term.to_string(),
                report.applied.to_string(),
                report.leases.to_string(),
                report.waiters.to_string(),
                if report.durable { "disk" } else { "memory" }.to_owned(),
                report.version.clone(),
                report.cluster.to_string(),
            ]),
            Err(_) => table.row(["?".to_owned(), address.clone(), "no answer".to_owned()]),
        }
    }
    table
}

fn status_json(address: &str, answer: &Result<StatusReport, ReadError>) -> Value {
    match answer {
        Ok(report) => json!({
            "address": address,
            "reachable": true,
            "agent": report.agent.as_str(),
            "node": report.node.to_string(),
            "cluster": report.cluster.to_string(),
            "version": report.version,
            "role": report.role.to_string(),
            "term": report.term,
            "leader": report.leader.map(|node| node.to_string()),
            "applied": report.applied,
            "leases": report.leases,
            "waiters": report.waiters,
            "durable": report.durable,
            "stopped": report.stopped,
            "ttl_ms": in_ms(report.timing.ttl),
        }),
        Err(error) => json!({ "address": address, "reachable": false, "detail": error.to_string() }),
    }
}

/// Who holds one name.
pub(crate) async fn holder(args: HolderArgs) -> Result<(), Failed> {
    let name = Name::new(&args.name).map_err(|error| Failed::with(exit::USAGE, error))?;
    let client = connect(&args.look.connect).await?;
    let held = client.holder(name.as_str()).await?;
    client.close().await;
    match (held, args.look.json) {
        (Some(held), true) => output::line(&lease_json(&name, &held).to_string()),
        (None, true) => output::line(&json!({ "name": name.as_str(), "held": false }).to_string()),
        (Some(held), false) => {
            let mut table = lease_table();
            lease_row(&mut table, &name, &held);
            table.print();
        }
        (None, false) => output::line(&format!("{name:?} is free")),
    }
    Ok(())
}

/// All leases whose names begin with the prefix, page by page.
pub(crate) async fn leases(args: LeasesArgs) -> Result<(), Failed> {
    let client = connect(&args.look.connect).await?;
    let mut table = lease_table();
    let (mut after, mut found) = (None, false);
    loop {
        let (leases, more) =
            client.leases(&args.prefix, after.as_ref().map(|(name, token)| (name, *token)), PAGE).await?;
        for (name, held) in &leases {
            found = true;
            if args.look.json {
                output::line(&lease_json(name, held).to_string());
            } else {
                lease_row(&mut table, name, held);
            }
        }
        after = leases.into_iter().next_back().map(|(name, held)| (name, held.token));
        if !more || after.is_none() {
            break;
        }
    }
    client.close().await;
    match (args.look.json, found) {
        (true, _) => {}
        (false, true) => table.print(),
        (false, false) => output::line("no lease is held"),
    }
    Ok(())
}

fn lease_table() -> Table {
    Table::new(&["NAME", "HOLDER", "TOKEN", "SINCE", "TTL", "WAITERS", "STATE"])
}

fn lease_row(table: &mut Table, name: &Name, held: &HolderInfo) {
    table.row([
        name.to_string(),
        held.agent.to_string(),
        held.token.to_string(),
        held.since.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        format!("{:?}", held.ttl),
        held.waiters.to_string(),
        if held.revoked { "revoked" } else { "held" }.to_owned(),
    ]);
}

fn lease_json(name: &Name, held: &HolderInfo) -> Value {
    json!({
        "name": name.as_str(),
        "held": true,
        "agent": held.agent.as_str(),
        "node": held.node.to_string(),
        "token": held.token.to_string(),
        "since": held.since.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        "ttl_ms": in_ms(held.ttl),
        "waiters": held.waiters,
        "revoked": held.revoked,
        "metadata": String::from_utf8_lossy(&held.metadata),
    })
}

fn in_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
