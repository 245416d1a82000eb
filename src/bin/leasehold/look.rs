//! `status`, `holder`, `leases`: looking, without changing anything.
//!
//! In JSON, tokens and node ids are strings: they use all 64 bits, and many readers of JSON keep only 53 of a number.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use leasehold::{ClosureInfo, HolderInfo, Mode, Name, NameReport, ReadError, StatusReport, WaiterInfo};
use serde_json::{Value, json};

use crate::{
    args::{HolderArgs, LeasesArgs, LookArgs},
    exit::{self, Failed},
    output::{self, Table, in_ms},
};

/// How many leases are asked for at once.
const PAGE: usize = 1_000;

/// How an agent is, and the end of the certificate that it has shown.
type Asked = Result<(StatusReport, Option<DateTime<Utc>>), ReadError>;

/// How the agents at the addresses are, and all other members that they know.
pub(crate) async fn status(args: LookArgs) -> Result<(), Failed> {
    let client = output::connect(&args.connect, None).await?;
    let mut addresses: BTreeSet<String> = client.addresses().iter().cloned().collect();
    addresses.extend(client.status().await?.members.into_iter().map(|member| member.addr));
    let asked = addresses.into_iter().map(async |address| {
        let report = client.status_of(&address).await.map(|report| {
            let expires = client.certificate_of(&address).map(|certificate| certificate.expires);
            (report, expires)
        });
        (address, report)
    });
    let answers = futures_util::future::join_all(asked).await;
    client.close().await;
    if args.json {
        for (address, answer) in &answers {
            output::line(&status_json(address, answer).to_string())?;
        }
    } else {
        status_table(&answers).print()?;
    }
    if answers.iter().all(|(_, answer)| answer.is_err()) {
        return Err(Failed::new("no agent answered; check that they run and are in reach"));
    }
    Ok(())
}

fn status_table(answers: &[(String, Asked)]) -> Table {
    let mut table = Table::new(&[
        "AGENT",
        "ADDRESS",
        "ROLE",
        "TERM",
        "APPLIED",
        "LEASES",
        "WAITERS",
        "STORAGE",
        "VERSION",
        "CLUSTER",
        "CERTIFICATE",
    ]);
    for (address, answer) in answers {
        match answer {
            Ok((report, expires)) => table.row([
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
                expires.map_or_else(|| "none".to_owned(), |at| format!("until {}", output::time(at))),
            ]),
            Err(_) => table.row(["?".to_owned(), address.clone(), "no answer".to_owned()]),
        }
    }
    table
}

fn status_json(address: &str, answer: &Asked) -> Value {
    match answer {
        Ok((report, expires)) => json!({
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
            "certificate_expires": expires.map(output::time_ms),
        }),
        Err(error) => json!({ "address": address, "reachable": false, "detail": error.to_string() }),
    }
}

/// All about one name.
pub(crate) async fn holder(args: HolderArgs) -> Result<(), Failed> {
    let name = Name::new(&args.name).map_err(|error| Failed::with(exit::USAGE, error))?;
    let client = output::connect(&args.look.connect, None).await?;
    let report = client.inspect(name.as_str()).await?;
    client.close().await;
    if args.look.json {
        return output::line(&report_json(&report).to_string());
    }
    if report.holders.is_empty() {
        output::line(&format!("{name:?} is free"))?;
    } else {
        let mut table = lease_table();
        report.holders.iter().for_each(|held| lease_row(&mut table, &name, held));
        table.print()?;
    }
    if let Some(ClosureInfo { agent, token, delay, .. }) = &report.closed {
        output::line(&format!(
            "{name:?} is closed to all but {agent}, whose lease (token {token}) expired, for {delay:?} in all"
        ))?;
    }
    if !report.waiters.is_empty() {
        let mut table = Table::new(&["PLACE", "WAITER", "MODE", "TTL"]);
        for WaiterInfo { position, agent, mode, ttl, .. } in &report.waiters {
            table.row([position.to_string(), agent.to_string(), mode.to_string(), format!("{ttl:?}")]);
        }
        table.print()?;
    }
    for (what, shown, in_all) in [
        ("hold", report.holders.len(), report.holders_in_all),
        ("wait", report.waiters.len(), report.waiters_in_all),
    ] {
        if in_all > shown as u64 {
            output::line(&format!("… the first {shown} of {in_all} that {what}"))?;
        }
    }
    Ok(())
}

/// All leases whose names begin with the prefix, page by page.
pub(crate) async fn leases(args: LeasesArgs) -> Result<(), Failed> {
    let client = output::connect(&args.look.connect, None).await?;
    let mut table = lease_table();
    let (mut after, mut found) = (None, false);
    loop {
        let (leases, more) =
            client.leases(&args.prefix, after.as_ref().map(|(name, token)| (name, *token)), PAGE).await?;
        for (name, held) in &leases {
            found = true;
            if args.look.json {
                output::line(&lease_json(name, held).to_string())?;
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
        (true, _) => Ok(()),
        (false, true) => table.print(),
        (false, false) => output::line("no lease is held"),
    }
}

fn lease_table() -> Table {
    Table::new(&["NAME", "HOLDER", "TOKEN", "SINCE", "TTL", "MODE", "WAITERS", "STATE"])
}

fn lease_row(table: &mut Table, name: &Name, held: &HolderInfo) {
    table.row([
        name.to_string(),
        held.agent.to_string(),
        held.token.to_string(),
        output::time(held.since).to_string(),
        format!("{:?}", held.ttl),
        match held.mode {
            Mode::Exclusive => held.mode.to_string(),
            mode => format!("{mode}, {} held", held.holders),
        },
        held.waiters.to_string(),
        if held.revoked { "revoked" } else { "held" }.to_owned(),
    ]);
}

/// One lease.
pub(crate) fn lease_json(name: &Name, held: &HolderInfo) -> Value {
    let (mode, permits) = output::mode(held.mode);
    json!({
        "name": name.as_str(),
        "held": true,
        "agent": held.agent.as_str(),
        "node": held.node.to_string(),
        "token": held.token.to_string(),
        "since": output::time_ms(held.since),
        "ttl_ms": in_ms(held.ttl),
        "mode": mode,
        "permits": permits,
        "holders": held.holders,
        "waiters": held.waiters,
        "revoked": held.revoked,
        "metadata": String::from_utf8_lossy(&held.metadata),
    })
}

fn report_json(report: &NameReport) -> Value {
    let all: Vec<Value> = report.holders.iter().map(|held| lease_json(&report.name, held)).collect();
    let queue = report.waiters.iter().map(|waiter| {
        let (mode, permits) = output::mode(waiter.mode);
        json!({
            "position": waiter.position,
            "agent": waiter.agent.as_str(),
            "node": waiter.node.to_string(),
            "mode": mode,
            "permits": permits,
            "ttl_ms": in_ms(waiter.ttl),
        })
    });
    let queue: Vec<Value> = queue.collect();
    let closed = report.closed.as_ref().map(|closed| {
        json!({
            "agent": closed.agent.as_str(),
            "token": closed.token.to_string(),
            "delay_ms": in_ms(closed.delay),
        })
    });
    let mut json =
        all.first().cloned().unwrap_or_else(|| json!({ "name": report.name.as_str(), "held": false }));
    json["holders"] = report.holders_in_all.into();
    json["waiters"] = report.waiters_in_all.into();
    json["held_by"] = all.into();
    json["queue"] = queue.into();
    json["closed"] = closed.into();
    json
}
